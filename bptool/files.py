"""Crash-safe writing, and what differs between operating systems about files.

A file that others read is written under a temporary name in the same folder, flushed to the
disk, and renamed over the old one: a reader sees the old file or the new one, never a part.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

TEMPORARY_PREFIX = ".writing-"
_FAR = 2**30
"""The byte that Windows locks, beyond all that is written, which others may then still read."""


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename survives a power cut. Windows cannot; skipped."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(temporary: Path, path: Path) -> None:
    """Give a file that is whole and flushed its name, and the mode that new files have."""
    if os.name != "nt":
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
    os.replace(temporary, path)
    sync_folder(path.parent)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a binary file that takes the place of ``path`` when the block ends without an error.

    On an error nothing is left behind and ``path`` is as it was.
    """
    path = Path(path)
    descriptor, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        publish(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def remove_leftovers(folder: Path) -> None:
    """Remove what writers of ``folder`` left under a temporary name when they were killed.

    Only for a folder that nobody writes to meanwhile. What cannot be removed stays.
    """
    with contextlib.suppress(OSError):
        for path in list(folder.iterdir()):
            if path.name.startswith(TEMPORARY_PREFIX):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` as a whole or not at all."""
    with replacing(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 with LF line ends to ``path`` as a whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def append_whole(file: FileIO, data: bytes, size: int) -> None:
    """Write ``data`` behind the first ``size`` bytes of an unbuffered file, whole or not at all.

    What a write that failed left behind them is cut off, now or before the next.
    """
    _cut_to(file, size)
    try:
        if file.write(data) != len(data):  # a full disk takes a part
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        with contextlib.suppress(OSError):
            _cut_to(file, size)
        raise


def _cut_to(file: FileIO, size: int) -> None:
    if os.fstat(file.fileno()).st_size > size:
        file.truncate(size)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON to ``path`` as a whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def lock(descriptor: int) -> None:
    """Lock an open file for this process until it is closed; OSError at once where another has."""
    if os.name == "nt":
        import msvcrt

        os.lseek(descriptor, _FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def require_regular(path: Path) -> int:
    """Bytes of a file; OSError where it is missing, or a pipe or device that would never end."""
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return found.st_size


def read_bounded(path: Path, most: int) -> bytes:
    """The bytes of a regular file; OSError where there are more than ``most``."""
    if require_regular(path) > most:
        raise OSError(errno.EFBIG, f"larger than {format_bytes(most)}", str(path))
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"larger than {format_bytes(most)}", str(path))
    return data


def free_bytes(folder: Path) -> int | None:
    """Bytes that may still be written below ``folder``; None where the system does not say."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def format_bytes(n: float) -> str:
    """``1.5 GB`` (powers of ten)."""
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if n < 999.5 or unit == "PB":
            return f"{n:.3g} {unit}"
        n /= 1000.0
    raise AssertionError
