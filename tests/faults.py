"""A layer of faults under everything that bptool asks of the disk: the n-th write, flush, rename,
truncation, removal, new file or new folder fails, once or from then on, or all take long."""

from __future__ import annotations

import builtins
import errno
import io
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import training_runs as runs

from bptool.cli.main import main
from bptool.files import TEMPORARY_PREFIX
from bptool.training.checkpoint import CheckpointStore, is_whole
from bptool.training.run_folder import RunFolder

EVERY = int(os.environ.get("BPTOOL_FAULTS_EVERY", "97"))
"""One is tried of so many pairs of a call and a way to fail; 1 tries all of them."""
REMOVALS = ("unlink", "rmdir")
SHORTENINGS = ("truncate", "ftruncate")
NAMES = ("fsync", "replace", "rename", "mkdir", *SHORTENINGS, *REMOVALS)
"""Functions of ``os`` that fail; those that open and write are wrapped in ways of their own."""


@dataclass(frozen=True)
class Way:
    """How a call fails: with what ``errno``, and whether all after it fail too. ``code`` 0 is a
    write that takes half of its bytes."""

    code: int
    lasting: bool = False

    def concerns(self, call: str) -> bool:
        """Whether ``call`` can fail so: what frees space needs none, and only writes are short."""
        if self.code == 0:
            return call == "write"
        return self.code != errno.ENOSPC or call not in (*REMOVALS, *SHORTENINGS)


WAYS = {
    "no space from then on": Way(errno.ENOSPC, lasting=True),
    "an I/O error once": Way(errno.EIO),
    "I/O errors from then on": Way(errno.EIO, lasting=True),
    "read-only from then on": Way(errno.EROFS, lasting=True),
    "permission denied once": Way(errno.EACCES),
    "half a write once": Way(0),
}


@dataclass
class Faults:
    """Counts what bptool asks of the disk, and lets some of it fail.

    Attributes:
        number: of the first call that fails, from 0. way: how. seconds: what every call takes.
        at: called with the number of each call, before it.
        calls: what was asked. kept: names of what could not be removed.
    """

    number: int = 10**9
    way: Way = Way(0)
    seconds: float = 0.0
    at: Callable[[int], None] = lambda number: None
    calls: list[str] = field(default_factory=list)
    kept: set[str] = field(default_factory=set)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Put the layer in place."""
        for owner, name in (*((os, name) for name in NAMES), (tempfile, "mkstemp")):
            patch.setattr(owner, name, self._wrapped(name, getattr(owner, name)))
        fdopen, opened = os.fdopen, io.open
        patch.setattr(os, "fdopen", lambda *a, **k: self._file(fdopen(*a, **k)))
        for module in (io, builtins):
            patch.setattr(module, "open", lambda *a, **k: self._opened(opened, *a, **k))
        descriptor, write = os.open, os.write
        patch.setattr(os, "open", lambda *a, **k: self._descriptor(descriptor, *a, **k))
        patch.setattr(os, "write", lambda to, data: self._written(write, to, data))

    def run(self, arguments: Sequence[str]) -> int:
        """The exit code of ``bptool`` with the layer in place."""
        with pytest.MonkeyPatch.context() as patch:
            self.install(patch)
            return main(arguments)

    def leftovers(self, folder: Path) -> list[Path]:
        """Temporary files that are still there though they could be removed."""
        found = folder.rglob(f"{TEMPORARY_PREFIX}*")
        return [path for path in found if path.name not in self.kept]

    def _is_ours(self, depth: int = 3) -> bool:
        """Whether the call comes from bptool, maybe by the standard library."""
        frame = sys._getframe(depth)
        for _ in range(4):
            if frame.f_globals.get("__name__", "").startswith("bptool."):
                return True
            if frame.f_back is None:
                return False
            frame = frame.f_back
        return False

    def is_due(self, call: str) -> bool:
        """Count a call; whether it fails."""
        self.at(len(self.calls))
        self.calls.append(call)
        if self.seconds:
            time.sleep(self.seconds)
        at = len(self.calls) - 1
        is_reached = at == self.number or (self.way.lasting and at > self.number)
        return is_reached and self.way.concerns(call)

    def error(self, path: object = None) -> OSError:
        """What a call fails with; a write that takes only half finds no space for the rest."""
        code = self.way.code or errno.ENOSPC
        where = () if path is None else (str(path),)
        return OSError(code, os.strerror(code), *where)

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if self._is_ours(2) and self.is_due(name):
                if name in REMOVALS:
                    self.kept.add(Path(arguments[0]).name)
                raise self.error()
            # what a flush leaves on a real disk shows only when the power goes, and takes long
            return None if name == "fsync" else real(*arguments, **options)

        return call

    def _opened(self, real: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        mode = options.get("mode", arguments[1] if len(arguments) > 1 else "r")
        if not set(mode) & set("wax+") or not self._is_ours():
            return real(*arguments, **options)
        if self.is_due("open"):
            raise self.error(arguments[0])
        return _File(self, real(*arguments, **options))

    def _descriptor(self, real: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if arguments[1] & os.O_CREAT and self._is_ours() and self.is_due("open"):
            raise self.error(arguments[0])
        return real(*arguments, **options)

    def _written(self, real: Callable[..., Any], to: int, data: Any) -> Any:
        if self._is_ours() and self.is_due("write"):
            if self.way.code:
                raise self.error()
            return real(to, data[: len(data) // 2])
        return real(to, data)

    def _file(self, file: Any) -> Any:
        return _File(self, file) if self._is_ours() else file


class _File:
    """A file that is written through the layer."""

    def __init__(self, faults: Faults, file: Any) -> None:
        self._faults, self._real = faults, file

    def write(self, data: Any) -> int:
        if not self._faults.is_due("write"):
            return int(self._real.write(data))
        part = data if isinstance(data, str) else memoryview(data).cast("B")
        share = 0 if self._faults.way.code == errno.EROFS else len(part) // 2
        n = int(self._real.write(part[:share]))
        if self._faults.way.code == 0 and isinstance(self._real, io.RawIOBase):
            return n
        raise self._faults.error()

    def truncate(self, size: int | None = None) -> int:
        if self._faults.is_due("truncate"):
            raise self._faults.error()
        return int(self._real.truncate(size))

    def flush(self) -> None:
        if self._faults.is_due("flush"):
            raise self._faults.error()
        self._real.flush()

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *error: object) -> None:
        self._real.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def chosen(calls: Sequence[str], ways: Sequence[Way] = (), every: int = EVERY) -> Iterator[Faults]:
    """Every ``every``-th fault that a command which makes ``calls`` can meet."""
    among = ways or tuple(WAYS.values())
    all_of_them = [(n, way) for n, call in enumerate(calls) for way in among if way.concerns(call)]
    tried = all_of_them[every // 2 :: every]
    logging.getLogger(__name__).info("%d of %d faults", len(tried), len(all_of_them))
    for number, way in tried:
        yield Faults(number, way)


def ended_clearly(exit_code: int, error: str, faults: Faults) -> str:
    """What to say where a test fails; fails itself where a command did not end as it should: well,
    or in one line."""
    call = faults.calls[faults.number] if faults.number < len(faults.calls) else "nothing"
    what = f"call {faults.number}, {call}, {faults.way}: exit code {exit_code}\n{error}"
    lines = error.splitlines()
    assert exit_code in (0, 2), what
    assert "Traceback" not in error, what
    assert sum(line.startswith("error: ") for line in lines) == (exit_code == 2), what
    return what


def check_goes_on(begin: Sequence[str], run: Path, want: dict[str, Any], what: str) -> None:
    """The last checkpoint that a fault left of ``run`` is whole, and the run goes on from there, or
    begins by ``begin`` where there is none, to the bits of ``want``, an unbroken run's."""
    if run.exists():
        store = CheckpointStore(RunFolder(run).checkpoints)
        assert store.index().last is None or is_whole(store.resolve("last")), what
    at = begin.index("--reward") if "--reward" in begin else len(begin)
    resume = ["train", str(run), "--resume", "--quiet", *begin[at : at + 2]]
    assert Faults().run(resume if run.exists() else begin) == 0, what
    left = runs.left_behind(run)
    assert left["metrics"] == want["metrics"], what
    # a sample that could not be written is missing, never torn
    samples, unbroken = (found["samples"].split("\n== step ") for found in (left, want))
    assert set(samples) <= set(unbroken), what
    last = f"checkpoints/{want['index'].last}/"
    tensors = [n for n in want["hashes"] if n.startswith(last) and n.endswith(".safetensors")]
    assert len(tensors) >= 2
    assert {n: left["hashes"].get(n) for n in tensors} == {n: want["hashes"][n] for n in tensors}, (
        what
    )
    assert not list(run.rglob(f"{TEMPORARY_PREFIX}*")), what
