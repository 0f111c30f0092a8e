"""Checkpoints: a folder each, complete or not there at all.

    checkpoints/step-00000500/weights.safetensors     parameters by name
                              average.safetensors     their average, where one is made
                              optimizer.safetensors   state, ``slot/parameter``, and the weights
                                                      in training where others are evaluated
                              lesson.safetensors      arrays that the lesson keeps, if it has any
                              state.json              step, counters, hashes of the others
    checkpoints/index.json                            which is the last, which the best

A checkpoint is written to a folder with a temporary name and renamed when it is whole; then
``index.json`` is replaced; only then are folders removed that are not to be kept. A crash at any
moment leaves the checkpoint before. What is read is held to its hash first; nothing is ever
unpickled, and no name in a file leads out of the folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bptool import consent
from bptool.errors import DamagedError, RunError
from bptool.files import (
    TEMPORARY_PREFIX,
    format_bytes,
    free_bytes,
    require_regular,
    sync_folder,
)
from bptool.models.base import Array, FlatLayout
from bptool.training.run_folder import require_inside, writing
from bptool.training.seal import read_sealed, write_sealed
from bptool.training.tensor_file import read_tensors, sha256_of, write_tensors

WEIGHTS, AVERAGE, OPTIMIZER, LESSON, STATE, INDEX = (
    "weights.safetensors",
    "average.safetensors",
    "optimizer.safetensors",
    "lesson.safetensors",
    "state.json",
    "index.json",
)


SLACK_BYTES = 64 * 1024
"""Of a checkpoint, besides its tensors, roughly."""
_TRUSTED_BYTES = 1 << 24
"""That a model may need more than its file has until the tensor is named that does not fit."""
_NAME = re.compile(r"step-([0-9]{8,18})\Z")


@dataclass(frozen=True)
class Index:
    """The names of the checkpoints that count."""

    last: str | None = None
    best: str | None = None


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        keep_last: how many of the newest are kept, and always the last and the best.
        keep_every: those of every so many steps are kept too.
        is_regular: whether a run that nobody stopped makes one at a step; only these are counted,
            so that stopping a run changes nothing about it.
    """

    def __init__(
        self,
        folder: Path,
        keep_last: int = 1,
        keep_every: int | None = None,
        is_regular: Callable[[int], bool] = lambda step: True,
    ) -> None:
        self.folder, self.keep_last, self.keep_every = folder, keep_last, keep_every
        self._is_regular = is_regular

    def index(self) -> Index:
        """What the index says; an empty one before the first checkpoint."""
        path = self.folder / INDEX
        if not path.exists():
            return Index()
        value = read_sealed(path, "checkpoint index")
        names = {key: value.get(key) for key in ("last", "best")}
        for name in names.values():
            if name is not None and _step_of(name) is None:
                raise RunError(f"{path} names {str(name)[:80]!r}, which is not a checkpoint's name")
        return Index(**names)

    def names(self) -> list[str]:
        """The checkpoints that are there, oldest first."""
        found = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        return sorted(filter(_step_of, found), key=_step_of)  # type: ignore[arg-type]

    def regular(self) -> list[str]:
        """Those of them that a run makes which nobody stops."""
        return [name for name in self.names() if self._is_regular(_step_of(name) or 0)]

    def save(
        self,
        weights: dict[str, Array],
        optimizer: dict[str, Array],
        state: dict[str, Any],
        average: dict[str, Array] | None = None,
        lesson: dict[str, Array] | None = None,
    ) -> str:
        """Write a checkpoint of ``state["step"]`` and make it the last; returns its name.

        ``weights``, ``optimizer`` and, if there are any, ``average`` and ``lesson`` are the tensors
        of a file each, by name.

        Raises:
            RunError: it could not be written (a full disk, say); the one before is as it was.
        """
        name = f"step-{state['step']:08d}"
        temporary = self.folder / f"{TEMPORARY_PREFIX}{name}"
        tensors = {WEIGHTS: weights, OPTIMIZER: optimizer}
        tensors |= {} if average is None else {AVERAGE: average}
        tensors |= {LESSON: lesson} if lesson else {}
        needed = sum(array.nbytes for named in tensors.values() for array in named.values())
        try:
            with writing(self.folder, "the checkpoint before is untouched"):
                require_space(self.folder, needed + SLACK_BYTES)
                write_folder(temporary, tensors, state)
                if (self.folder / name).exists():  # made by a run that was cut off
                    shutil.rmtree(self.folder / name)
                os.replace(temporary, self.folder / name)
                sync_folder(self.folder)
                self._write_index(Index(last=name, best=self.index().best))
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return name

    def mark_best(self, name: str) -> None:
        """Make ``name`` the best checkpoint."""
        with writing(self.folder, "the checkpoint before is untouched"):
            self._write_index(Index(last=self.index().last, best=name))

    def go_back(self, name: str, best_step: int) -> None:
        """Make ``name`` the last checkpoint, and the best that of ``best_step`` if it is kept."""
        best = f"step-{best_step:08d}"
        is_there = best_step > 0 and (self.folder / best).is_dir()
        with writing(self.folder):
            self._write_index(Index(last=name, best=best if is_there else None))

    def _write_index(self, index: Index) -> None:
        write_sealed(self.folder / INDEX, {"last": index.last, "best": index.best})
        kept = self._kept(index)
        for path in self.folder.iterdir():
            stale = _step_of(path.name) is not None and path.name not in kept
            if stale or path.name.startswith(TEMPORARY_PREFIX):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()

    def _kept(self, index: Index) -> set[str | None]:
        """The checkpoints to keep; those later than the last are of a run that was cut off."""
        last = _step_of(index.last) or 0
        older = [name for name in self.regular() if (_step_of(name) or 0) <= last]
        every = self.keep_every
        regular = [name for name in older if every and (_step_of(name) or 0) % every == 0]
        return {index.last, index.best, *older[-self.keep_last :], *regular}

    def resolve(self, which: str) -> Path:
        """Folder of the ``last`` or ``best`` checkpoint, the last where none is the best yet, or
        of the one called ``which``."""
        if which not in ("last", "best"):
            return self._named(which)
        with self.offering(None):
            index = self.index()
        name = index.best or index.last if which == "best" else index.last
        if name is None:
            raise RunError(
                f"{self.folder} holds no checkpoint: the run stopped before its first; start it "
                "again with `bptool train RUN --resume`"
            )
        return self.folder / name

    def _named(self, name: str) -> Path:
        known = self.names()
        if name not in known:
            there = f"there are {', '.join(known)}" if known else "there is none"
            raise RunError(f"{self.folder} has no checkpoint {name!r}; {there}")
        return self.folder / name

    @contextlib.contextmanager
    def offering(self, damaged: Path | None) -> Iterator[None]:
        """Where something in the block is damaged, say which checkpoint to go on from instead."""
        try:
            yield
        except DamagedError as error:
            others = [self.folder / name for name in self.names()]
            name = damaged.name if damaged else ""
            earlier = [path for path in others if not name or path.name < name]
            later = [path for path in others if name and path.name > name]
            for path in [*reversed(earlier), *later]:
                if is_whole(path):
                    words = ["bptool", "train", str(self.folder.parent), "--resume"]
                    words += ["--checkpoint", path.name, *consent.words()]
                    raise RunError(
                        f"{error}; {path.name} is whole: go on from it by `{shlex.join(words)}`"
                    ) from None
            remedy = "" if "restore it" in str(error) else ": restore it"
            raise RunError(f"{error}; no other checkpoint is whole{remedy}") from None


def require_space(folder: Path, needed: int) -> None:
    """Raise a RunError where fewer than ``needed`` bytes are free for a checkpoint."""
    free = free_bytes(folder)
    if free is not None and free < needed:
        raise RunError(
            f"{folder} cannot be written: a checkpoint takes {format_bytes(needed)} and "
            f"{format_bytes(free)} are free; free some space"
        )


def is_whole(checkpoint: Path) -> bool:
    """Whether every file of a checkpoint is as it was written."""
    try:
        hashes = load_state(checkpoint)["sha256"]
        return {WEIGHTS, OPTIMIZER} <= hashes.keys() and all(
            name in (WEIGHTS, OPTIMIZER, AVERAGE, LESSON) and sha256_of(checkpoint / name) == sha256
            for name, sha256 in hashes.items()
        )
    except (OSError, RunError, AttributeError, KeyError):
        return False


def write_folder(folder: Path, tensors: dict[str, dict[str, Array]], state: dict[str, Any]) -> None:
    """Write the files of a checkpoint, tensors by file, to a new folder."""
    if folder.exists():  # of a process that was killed
        shutil.rmtree(folder)
    folder.mkdir()
    hashes = {}
    for file_name, named in tensors.items():
        hashes[file_name] = write_tensors(folder / file_name, named)
    write_sealed(folder / STATE, {**state, "sha256": hashes})
    sync_folder(folder)


def load_state(checkpoint: Path) -> dict[str, Any]:
    """``state.json`` of a checkpoint."""
    require_inside(checkpoint / STATE, checkpoint.parent)
    return read_sealed(checkpoint / STATE, "checkpoint state")


def load_weights(
    checkpoint: Path, layout: FlatLayout, weights: Array, file_name: str = WEIGHTS
) -> None:
    """Read the parameters, or with ``AVERAGE`` their average, into a flat buffer.

    Raises:
        RunError: a file is missing or damaged, or holds another model's tensors.
    """
    named = layout.named(weights)
    _load(checkpoint, file_name, named)
    for name, tensor in named.items():
        if not (np.isfinite(tensor.min()) and np.isfinite(tensor.max())):  # both keep a NaN
            raise RunError(
                f"{checkpoint / file_name}: '{name}' holds numbers that are not finite, with which "
                "nothing can be computed; use another checkpoint or a copy"
            )


def read_weights(checkpoint: Path, layout: FlatLayout, file_name: str = WEIGHTS) -> Array:
    """The parameters, or their average, in a new flat buffer; errors as :func:`load_weights`.

    The file's size is looked at before much memory is asked for, since a stranger's configuration
    may speak of a model of any size.
    """
    load_state(checkpoint)  # first, since it is what every checkpoint has
    path = checkpoint / file_name
    try:
        size = require_regular(path)
    except OSError as error:
        raise DamagedError(f"{path} cannot be read: {error.strerror or error}") from None
    needed = 4 * sum(spec.size for spec in layout.specs)
    if needed > size + _TRUSTED_BYTES:
        raise RunError(
            f"{path} is cut off, or of another model: it has {format_bytes(size)}, and this model "
            f"needs {format_bytes(needed)}"
        )
    weights = layout.allocate(np.float32)
    load_weights(checkpoint, layout, weights, file_name)
    return weights


def load_optimizer(checkpoint: Path, tensors: dict[str, Array]) -> None:
    """Read the optimizer's state into arrays by name; errors as :func:`load_weights`."""
    _load(checkpoint, OPTIMIZER, tensors)


def load_lesson(checkpoint: Path, arrays: dict[str, Array]) -> None:
    """Read the lesson's arrays, if it keeps any, by name; errors as :func:`load_weights`."""
    if arrays:
        _load(checkpoint, LESSON, arrays)


def _load(checkpoint: Path, file_name: str, into: dict[str, Array]) -> None:
    path = checkpoint / file_name
    hashes = load_state(checkpoint).get("sha256")
    require_inside(path, checkpoint.parent)
    read_tensors(path, into, hashes.get(file_name) if isinstance(hashes, dict) else None)


def _step_of(name: object) -> int | None:
    """The step of a checkpoint's name; None for what is no such name."""
    found = _NAME.match(name) if isinstance(name, str) else None
    return int(found[1]) if found else None
