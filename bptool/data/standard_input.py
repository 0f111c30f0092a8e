"""A text from standard input, kept in the cache so that a run can be resumed without it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO

from bptool import files
from bptool.data.cache import cache_folder
from bptool.data.streams import CHUNK_BYTES, GZIP, PARQUET, ZSTD, read_chunks
from bptool.errors import DataError, UserError

NAME = "-"
"""What stands for standard input among texts."""


def keep(stream: BinaryIO, cache: Path | None = None) -> Path:
    """Copy ``stream`` to its end into ``<cache>/texts/<sha256>.txt``, and return that path.

    Records in JSON Lines or Parquet, and what is compressed, get the suffix of such files. The file
    appears whole or not at all; the same bytes are kept once.

    Raises:
        DataError: it is a terminal or empty, cannot be read, or there is no room for it.
    """
    if stream.isatty():
        raise DataError(
            "standard input is a terminal; send a text to it, as in: cat book.txt | bptool train -"
        )
    folder = cache_folder("texts", cache)
    digest = hashlib.sha256()
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=files.TEMPORARY_PREFIX, dir=folder)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
            if file.tell() == 0:
                raise DataError("standard input is empty; send a text to it, or name a file")
            file.flush()
            os.fsync(file.fileno())
        path = folder / f"{digest.hexdigest()}{_suffix(temporary)}"
        if not path.exists():
            files.publish(temporary, path)
        return path
    except OSError as error:
        raise DataError(
            f"{folder}: standard input cannot be kept ({error.strerror or error}); free some "
            "space, or set BPTOOL_CACHE_DIR to a folder elsewhere"
        ) from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):  # as of a disk that is read-only now
                temporary.unlink(missing_ok=True)


def without_stdin(source: list[str], texts: list[str]) -> tuple[list[str], list[str]]:
    """``source`` and ``texts`` with ``-`` replaced by the file that standard input was kept in.

    Raises:
        UserError: it is named twice, is a terminal or empty, or cannot be kept.
    """
    n = (source + texts).count(NAME)
    if n == 0:
        return source, texts
    if n > 1:
        raise UserError("standard input is one text; name - once")
    kept = str(keep(sys.stdin.buffer))
    replaced = [[kept if name == NAME else name for name in names] for names in (source, texts)]
    return replaced[0], replaced[1]


def _suffix(path: Path) -> str:
    """What a file without a name is called by, from how it begins."""
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(PARQUET):
        return ".parquet"
    packed = ".gz" if start.startswith(GZIP) else ".zst" if start.startswith(ZSTD) else ""
    line = next(read_chunks(path), b"").lstrip().split(b"\n", 1)[0]
    try:
        value = json.loads(line) if line.startswith(b"{") else None
    except (ValueError, RecursionError):
        value = None
    return (".jsonl" if isinstance(value, dict) else ".txt") + packed
