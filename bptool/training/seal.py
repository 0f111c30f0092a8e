"""JSON files that notice any change to a byte of them: checkpoints' states and their index.

The key ``seal`` holds the SHA-256 of the file's bytes with 64 zeros in the place of the digest.
Files of version 1 had no seal; they are read as what they are.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from bptool.errors import DamagedError
from bptool.files import encoded, write_text
from bptool.training.run_folder import read_json_and_bytes

VERSION = 2
_KEY, _EMPTY = "seal", "0" * 64


def write_sealed(path: Path, value: dict[str, Any]) -> None:
    """Write ``value`` with a version and a seal, whole or not at all."""
    whole = {"format_version": VERSION, **value, _KEY: _EMPTY}
    text = json.dumps(whole, indent=2, ensure_ascii=False) + "\n"
    at = text.rindex(_EMPTY)
    digest = hashlib.sha256(encoded(text)).hexdigest()
    write_text(path, text[:at] + digest + text[at + len(_EMPTY) :])


def read_sealed(path: Path, what: str) -> dict[str, Any]:
    """Read what :func:`write_sealed` wrote, or a file of version 1.

    Raises:
        DamagedError: a byte of it is not as it was written.
    """
    value, data = read_json_and_bytes(path, what, (1, VERSION))
    seal = value.pop(_KEY, None)
    if seal is None and value["format_version"] == 1:
        return value
    before, found, after = data.rpartition(str(seal).encode("utf-8"))
    if not found or hashlib.sha256(before + _EMPTY.encode() + after).hexdigest() != seal:
        raise DamagedError(f"{path} is damaged: its sha256 is not the one in it")
    return value
