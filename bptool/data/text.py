"""Where texts are, and what they are known by."""

from __future__ import annotations

from pathlib import Path

DATASET_PREFIX = "dataset:"


def resolve(path: Path | str) -> Path:
    """The file behind a path or ``dataset:NAME``."""
    if isinstance(path, str) and path.startswith(DATASET_PREFIX):
        from bptool.data import download

        return download.path_of(path.removeprefix(DATASET_PREFIX))
    return Path(path)
