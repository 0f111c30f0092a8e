"""Reading text files, with one clear line for each way a file can be no text.

Line ends: CRLF becomes LF, so that a file checked out on Windows gives the same tokens as
elsewhere. Nothing else changes; a byte order mark at the start is dropped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from bptool.errors import DataError

DATASET_PREFIX = "dataset:"


def read_text(path: Path | str) -> str:
    """Read one text file, or a downloaded data set by ``dataset:NAME``.

    Raises:
        DataError: missing, a folder, not readable, empty, binary, or not UTF-8; the message names
            the file, and for a bad byte its line and its offset in the file (from 0).
    """
    path = resolve(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the name and the folder") from None
    except OSError as error:
        if path.is_dir():
            raise DataError(f"{path}: is a folder; name a text file in it") from None
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise DataError(f"{str(path)!r}: cannot be the name of a file ({error})") from None
    if (at := data.find(b"\0")) >= 0:
        raise DataError(
            f"{path}: not a text file (NUL at byte {at}); if it is text, save it as UTF-8"
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: byte 0x{data[error.start]:02X} at offset {error.start} is not "
            "UTF-8; save the file as UTF-8"
        ) from None
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if not text:
        raise DataError(f"{path}: the file is empty; name a file with text in it")
    return text


def read_texts(paths: Iterable[Path | str]) -> list[str]:
    """Read each of ``paths`` in order; see :func:`read_text`."""
    return [read_text(path) for path in paths]


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
