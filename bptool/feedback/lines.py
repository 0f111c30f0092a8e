"""A file of lines that several processes append to, and in which no line is lost.

A line is whole when its line end is on the disk. What stands behind the last line end is the rest
of a write that a crash or a full disk cut short: it is dropped before the next line is written.
On POSIX the file is locked while it is changed (``flock``, which ends with its process). Windows
does not let a locked file be replaced, so that there only appending is safe at the same moment.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from bptool.files import sync_folder, write_bytes


def read_lines(path: Path) -> bytes:
    """All whole lines of a file; none where it is missing. A torn one is cut off the file."""
    if not path.exists():
        return b""
    with _locked(path, "rb") as file:
        data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            write_bytes(path, whole)
    return whole


def append_line(path: Path, line: bytes) -> None:
    """Add a line, which is on the disk when this returns; the file is as it was on an error."""
    is_new = not path.exists()
    with _locked(path, "ab+") as file:
        size = _whole_size(file)
        try:
            if is_new:  # first, so that a line that fails is not there
                sync_folder(path.resolve().parent)
            file.truncate(size)
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            with contextlib.suppress(OSError):  # of bytes that are still buffered
                file.flush()
            os.ftruncate(file.fileno(), size)
            raise


def change_lines(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Replace the whole lines of a file by what ``change`` makes of them, all or nothing."""
    with _locked(path, "rb") as file:
        data = file.read()
        write_bytes(path, change(data[: data.rfind(b"\n") + 1]))


def _whole_size(file: BinaryIO) -> int:
    """Bytes up to the last line end."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return 0
    file.seek(size - 1)
    if file.read(1) == b"\n":
        return size
    file.seek(0)
    return file.read().rfind(b"\n") + 1


@contextlib.contextmanager
def _locked(path: Path, mode: str) -> Iterator[BinaryIO]:
    """The file that is at ``path`` while nobody else changes it, at its beginning."""
    if os.name == "nt":
        with path.open(mode) as file:
            file.seek(0)
            yield file  # type: ignore[misc]
        return
    import fcntl

    while True:
        with path.open(mode) as file:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file.fileno(), fcntl.LOCK_EX)
            if not _is_at(file.fileno(), path):  # replaced while we waited
                continue
            file.seek(0)
            yield file  # type: ignore[misc]
            return


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
