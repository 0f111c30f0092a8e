"""Token files: a split text as ids on disk, mapped into memory instead of read.

Layout: the 8 bytes ``BPTOKENS``, the length of the header (uint64, little-endian), the header
(JSON, padded with spaces so that the tokens start on a multiple of 64 bytes), then the training
tokens and the validation tokens (uint16 or uint32, little-endian).

A file is named after a hash of everything its content follows from, so a file once written never
changes: Windows cannot replace a mapped file, and no other system has to. How it is written is in
:mod:`bptool.data.token_writer`.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptool import files
from bptool.errors import DataError

FORMAT_VERSION = 1
MAGIC = b"BPTOKENS"
ALIGNMENT = 64
MAX_HEADER_BYTES = 512 * 1024**2
UNUSED_DAYS = 60
PATTERNS = ("*.tokens", "*.part", "*.journal", "*.survey.json", f"{files.TEMPORARY_PREFIX}*")
"""Of files that are forgotten when they were not used for so long."""
_CHECK_TOKENS = 1 << 22

Tokens = NDArray[Any]


@dataclass(frozen=True)
class TokenFile:
    """An open token file.

    Attributes:
        train, validation: the ids, mapped read-only; shapes (n_train,), (n_validation,).
        header: what was stored beside them: ``format_version``, ``dtype``, ``n_train``,
            ``n_validation``, ``key``, ``vocab_size``, ``tokenizer`` (as JSON values), and in newer
            ones ``note`` and ``validation_bytes``.
    """

    train: Tokens
    validation: Tokens
    header: dict[str, Any]


def open_token_file(path: Path, key: str) -> TokenFile:
    """Map a token file and check it: size against header, every id against the vocabulary.

    Raises:
        DataError: missing, damaged, or of another version or key.
    """
    try:
        with files.open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(16)
            length = int.from_bytes(start[8:], "little")
            if len(start) < 16 or start[:8] != MAGIC or length > min(size, MAX_HEADER_BYTES):
                raise DataError(f"{path}: not a token file; delete it")
            header = json.loads(file.read(length).decode("utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError):
        raise DataError(f"{path}: damaged header; delete the file") from None
    if not isinstance(header, dict) or header.get("format_version") != FORMAT_VERSION:
        raise DataError(f"{path}: unknown format_version; delete the file")
    n_train, n_validation, vocab_size = (
        header.get(name) for name in ("n_train", "n_validation", "vocab_size")
    )
    if (
        not (type(n_train) is type(n_validation) is type(vocab_size) is int)
        or min(n_train, n_validation) < 0
    ):
        raise DataError(f"{path}: damaged header; delete the file")
    if header.get("key") != key or header.get("dtype") not in ("uint16", "uint32"):
        raise DataError(f"{path}: made from another text or tokenizer; delete the file")
    dtype = np.dtype("<u2" if header["dtype"] == "uint16" else "<u4")
    n_tokens = n_train + n_validation
    if size != 16 + length + n_tokens * dtype.itemsize:
        raise DataError(f"{path}: {size} bytes, but its header speaks of {n_tokens} tokens")
    if n_tokens == 0:
        return TokenFile(np.empty(0, dtype), np.empty(0, dtype), header)
    _check_ids(path, dtype, 16 + length, vocab_size)
    tokens = np.asarray(np.memmap(path, dtype, "r", offset=16 + length, shape=(n_tokens,)))
    return TokenFile(tokens[:n_train], tokens[n_train:], header)


def _check_ids(path: Path, dtype: np.dtype[Any], start: int, vocab_size: int) -> None:
    """Read all ids, not through the mapping, whose pages would count as the process's memory."""
    try:
        with open(path, "rb") as file:
            file.seek(start)
            while len(ids := np.fromfile(file, dtype, _CHECK_TOKENS)):
                if int(ids.max()) >= vocab_size:
                    raise DataError(
                        f"{path}: damaged: an id is outside the vocabulary; delete the file"
                    )
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def forget_unused(folder: Path, days: float = UNUSED_DAYS) -> None:
    """Delete token files, and what was left unfinished or remembered, untouched for ``days``.

    A file that is mapped just now goes too where the system allows it: its pages stay valid.
    """
    before = time.time() - days * 86400.0
    for pattern in PATTERNS:
        for path in folder.glob(pattern):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < before:
                    path.unlink()
