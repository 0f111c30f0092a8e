"""A layer of faults under everything that bptool writes: the n-th write, flush, rename, new file or
new folder fails, once or from then on."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import pytest


class Faults:
    """Counts what bptool asks of the disk, and lets some of it fail.

    Args:
        number: of the first call that fails, from 0. code: what with, an ``errno``; 0 stands for a
            write that takes only half. lasting: whether all after it fail too.
        seconds: what every call takes.
    """

    def __init__(
        self, number: int = 10**9, code: int = 0, lasting: bool = False, seconds: float = 0.0
    ) -> None:
        self.number, self.code, self.lasting, self.seconds = number, code, lasting, seconds
        self.calls: list[str] = []

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Put the layer in place."""
        for owner, name in ((os, "fsync"), (os, "replace"), (os, "mkdir"), (tempfile, "mkstemp")):
            patch.setattr(owner, name, self._wrapped(name, getattr(owner, name)))
        real = os.fdopen
        patch.setattr(os, "fdopen", lambda *a, **k: self._file(real(*a, **k)))

    def _is_ours(self, depth: int = 2) -> bool:
        """Whether the call comes from bptool, maybe by the standard library."""
        frame = sys._getframe(depth)
        for _ in range(4):
            if frame.f_globals.get("__name__", "").startswith("bptool."):
                return True
            if frame.f_back is None:
                return False
            frame = frame.f_back
        return False

    def _is_due(self, name: str) -> bool:
        self.calls.append(name)
        time.sleep(self.seconds)
        at = len(self.calls) - 1
        return at == self.number or (self.lasting and at > self.number)

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if self._is_ours() and self._is_due(name):
                code = self.code or errno.ENOSPC
                raise OSError(code, os.strerror(code))
            return real(*arguments, **options)

        return call

    def _file(self, file: Any) -> Any:
        return _File(self, file) if self._is_ours(3) else file


class _File:
    def __init__(self, faults: Faults, file: Any) -> None:
        self._faults, self._real = faults, file

    def write(self, data: Any) -> int:
        if self._faults._is_due("write"):
            code = self._faults.code or errno.ENOSPC
            view = memoryview(data).cast("B")
            self._real.write(view[: len(view) // 2])
            raise OSError(code, os.strerror(code))
        return int(self._real.write(data))

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *error: object) -> None:
        self._real.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
