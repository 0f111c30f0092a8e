"""Where texts are, and what they are known by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

DATASET_PREFIX = "dataset:"


def resolve(path: Path | str) -> Path:
    """The file behind a path or ``dataset:NAME``."""
    if isinstance(path, str) and path.startswith(DATASET_PREFIX):
        from bptool.data import download

        return download.path_of(path.removeprefix(DATASET_PREFIX))
    return Path(path)


def sha256_of_texts(texts: Iterable[str]) -> str:
    """Hash of texts in order, of where one ends and the next begins included."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()
