"""A lock on the folder of a run or a study, or on a file of judgements, so that two processes never
work in it at once.

The lock is the system's own (``flock``; on Windows a locked byte), which ends with the process that
holds it, however that ends. The file also says who holds it: process id, host, the start of the
system, and when. A lock whose process has ended is *stale* and is taken over; one that another host
left behind is not, since nothing here can tell whether its process still runs.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from datetime import datetime
from pathlib import Path
from typing import Any

from bptool import files
from bptool.errors import RunError
from bptool.training.run_folder import writing

RUN_LOCK, STUDY_LOCK = "run.lock", "study.lock"
_BUSY = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def lock_of_file(path: Path) -> FolderLock:
    """The lock on a file that one process at a time may write to, which need not be there yet."""
    real = path.resolve()  # the same for every name of the file
    return FolderLock(real.parent, f"{real.name}.lock", held=path)


class FolderLock:
    """The lock on one folder, or on a file in it.

    Args:
        folder: which. name: the lock's file in it, ``RUN_LOCK`` or ``STUDY_LOCK``.
        held: what messages say is in use; the folder if nothing else is given.

    Attributes:
        notice: what was found and passed over, in one line; empty where there was nothing.
    """

    def __init__(self, folder: Path, name: str, held: Path | None = None) -> None:
        self.path = Path(folder) / name
        self._held = held or self.path.parent
        self.notice = ""
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            RunError: another process works in the folder, or may do so.
        """
        with writing(self.path, "choose a folder that you may write to"):
            while not self._open_and_lock():
                pass
        holder = self._holder()
        try:
            self._judge(holder)
            with writing(self.path):
                self._write(_ourselves())
        except BaseException:
            self._close()
            raise

    def release(self) -> None:
        """Give the lock back; the file goes."""
        if self._descriptor is None:
            return
        if os.name != "nt":  # while it is still ours, so that nobody else's file goes
            with contextlib.suppress(OSError):
                self.path.unlink()
        self._close()
        if os.name == "nt":
            with contextlib.suppress(OSError):
                self.path.unlink()

    def _open_and_lock(self) -> bool:
        """Lock the file that is at our path; False if it was removed meanwhile."""
        flags = os.O_RDWR | os.O_CREAT
        for flag in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK"):  # nor wait, if it is a pipe
            flags |= getattr(os, flag, 0)
        self._descriptor = os.open(self.path, flags, 0o644)
        self._is_certain = True
        try:
            files.lock(self._descriptor)
        except OSError as error:
            if error.errno in _BUSY:
                holder = self._holder()
                self._close()
                raise RunError(
                    f"{self._held} is in use: {_describe(holder)} works in it; wait for "
                    "that one, or stop it"
                ) from None
            self._is_certain = False  # a file system without locks
        try:
            same = os.path.samestat(os.fstat(self._descriptor), os.stat(self.path))
        except FileNotFoundError:
            same = False
        if not same:
            self._close()
        return same

    def _judge(self, holder: dict[str, Any]) -> None:
        """Pass over what a process left that has ended; refuse where that is not known."""
        if not holder:
            return
        here = _ourselves()
        same_system = holder.get("boot") == here["boot"] and here["boot"] is not None
        if not same_system and holder.get("host") != here["host"]:
            raise RunError(
                f"{self._held} was locked by {_describe(holder)}, which cannot be asked from "
                f"here ({here['host']}); if it has ended, remove {self.path}"
            )
        if not self._is_certain and same_system and _runs(holder.get("process")):
            raise RunError(
                f"{self._held} is in use: {_describe(holder)} works in it; wait for that "
                f"one or stop it; if it is no bptool any more, remove {self.path}"
            )
        since = "before this system started" if not same_system else "and has ended since"
        self.notice = f"{_describe(holder)} worked here {since}; its lock is taken over"

    def _holder(self) -> dict[str, Any]:
        """What the file says; nothing where it is empty or damaged."""
        assert self._descriptor is not None
        try:
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            value = json.loads(os.read(self._descriptor, 4096))
        except (OSError, ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    def _write(self, value: dict[str, Any]) -> None:
        assert self._descriptor is not None
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, json.dumps(value).encode())

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)  # which unlocks
            self._descriptor = None


def _ourselves() -> dict[str, Any]:
    """Who holds a lock that this process writes."""
    try:
        boot = _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        boot = None
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    return {"process": os.getpid(), "host": socket.gethostname(), "boot": boot, "since": now}


def _describe(holder: dict[str, Any]) -> str:
    """``process 12 on 'host' (since 2026-01-31T12:00:00+00:00)``."""
    if not holder:
        return "another process"
    known = {key: str(holder.get(key, "?"))[:64] for key in ("process", "host", "since")}
    return f"process {known['process']} on {known['host']!r} (since {known['since']})"


def _runs(process: object) -> bool:
    """Whether a process of this system runs, as far as can be told."""
    if os.name == "nt" or not isinstance(process, int) or isinstance(process, bool):
        return True  # signal 0 would end a process of Windows
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
