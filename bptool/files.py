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
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

TEMPORARY_PREFIX = ".writing-"
_ENDLESS: dict[Callable[[int], bool], str] = {
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}
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


def require_regular(path: Path | str) -> int:
    """Bytes of a regular file.

    Raises:
        OSError: it is missing, a folder, or a pipe, socket or device, which might never end.
    """
    return _bytes_of_regular(os.stat(path), path)


def _bytes_of_regular(status: os.stat_result, path: Path | str) -> int:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    for is_kind, kind in _ENDLESS.items():
        if is_kind(status.st_mode):
            raise OSError(errno.EINVAL, f"{kind}, not a regular file", str(path))
    return status.st_size


def open_regular(path: Path | str) -> BinaryIO:
    """Open a regular file to read its bytes. Opening never waits, as a pipe without a writer would.

    Raises:
        OSError: as :func:`require_regular`, or the file cannot be opened.
    """
    require_regular(path)  # first, since to open a device may do something
    flags = os.O_RDONLY
    for name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY", "O_NOINHERIT"):
        flags |= getattr(os, name, 0)
    file = os.fdopen(os.open(path, flags), "rb")
    try:
        _bytes_of_regular(os.fstat(file.fileno()), path)  # what is there now, if it was replaced
    except BaseException:
        file.close()
        raise
    return file


def read_bounded(path: Path | str, most: int) -> bytes:
    """The bytes of a regular file; OSError where there are more than ``most``."""
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"larger than {format_bytes(most)}", str(path))
    return data


def read_replacing(path: Path | str) -> str:
    """The text of a regular file of UTF-8, with its line ends; U+FFFD for what is not UTF-8."""
    with open_regular(path) as file:
        return file.read().decode("utf-8", errors="replace")


def loads_strictly(data: str | bytes) -> Any:
    """The value of a JSON text that a stranger may have written; bytes are UTF-8.

    Raises:
        ValueError: it is not JSON, gives a key of an object twice, nests too deeply, or holds a
            number of thousands of digits. Readers of JSON differ in what they make of these.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        if "digits" in str(error):  # Python's own bound, with advice for programmers
            raise ValueError("a number of thousands of digits") from None
        raise


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        known: set[str] = set()
        twice = next(key for key, _ in pairs if key in known or known.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {ascii(twice)[:80]} is given twice")
    return value


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
