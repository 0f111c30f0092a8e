"""Checkpoints: a folder each, complete or not there at all.

    checkpoints/step-00000500/weights.safetensors     parameters by name
                              average.safetensors     their average, where one is made
                              optimizer.safetensors   state, ``slot/parameter``, and the weights
                                                      in training where others are evaluated
                              lesson.safetensors      arrays that the lesson keeps, if it has any
                              state.json              step, counters, hashes of the others
    checkpoints/index.json                            which is the last, which the best

A checkpoint is written to a folder with a temporary name and renamed when it is whole; then
``index.json`` is replaced; only then are folders that it does not name removed. A crash at any
moment leaves the checkpoint before. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from bptool.errors import RunError
from bptool.files import TEMPORARY_PREFIX, sync_folder, write_json
from bptool.models.base import Array, FlatLayout
from bptool.training.run_folder import FORMAT_VERSION, read_json, writing
from bptool.training.tensor_file import write_tensors

WEIGHTS, AVERAGE, OPTIMIZER, LESSON, STATE, INDEX = (
    "weights.safetensors",
    "average.safetensors",
    "optimizer.safetensors",
    "lesson.safetensors",
    "state.json",
    "index.json",
)


@dataclass(frozen=True)
class Index:
    """The names of the checkpoints that count."""

    last: str | None = None
    best: str | None = None


class CheckpointStore:
    """The checkpoints of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def index(self) -> Index:
        """What the index says; an empty one before the first checkpoint."""
        path = self.folder / INDEX
        if not path.exists():
            return Index()
        value = read_json(path, "checkpoint index")
        names = {key: value.get(key) for key in ("last", "best")}
        for name in names.values():
            if name is not None and not _is_our_name(name):
                raise RunError(f"{path} names {name!r}, which is not a checkpoint's name")
        return Index(**names)

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
        try:
            with writing(self.folder, "the checkpoint before is untouched"):
                tensors = {WEIGHTS: weights, OPTIMIZER: optimizer}
                tensors |= {} if average is None else {AVERAGE: average}
                tensors |= {LESSON: lesson} if lesson else {}
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

    def _write_index(self, index: Index) -> None:
        value = {"format_version": FORMAT_VERSION, "last": index.last, "best": index.best}
        write_json(self.folder / INDEX, value)
        for path in self.folder.iterdir():
            stale = _is_our_name(path.name) and path.name not in (index.last, index.best)
            if stale or path.name.startswith(TEMPORARY_PREFIX):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()

    def resolve(self, which: str) -> Path:
        """Folder of the ``last`` or ``best`` checkpoint; the last where none is the best yet."""
        index = self.index()
        name = index.best or index.last if which == "best" else index.last
        if name is None:
            raise RunError(
                f"{self.folder} holds no checkpoint: the run stopped before its first; start it "
                "again with `bptool train RUN --resume`"
            )
        return self.folder / name


def write_folder(folder: Path, tensors: dict[str, dict[str, Array]], state: dict[str, Any]) -> None:
    """Write the files of a checkpoint, tensors by file, to a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    hashes = {}
    for file_name, named in tensors.items():
        hashes[file_name] = write_tensors(folder / file_name, named)
    write_json(folder / STATE, {"format_version": FORMAT_VERSION, **state, "sha256": hashes})
    sync_folder(folder)


def load_state(checkpoint: Path) -> dict[str, Any]:
    """``state.json`` of a checkpoint."""
    return read_json(checkpoint / STATE, "checkpoint state")


def load_weights(
    checkpoint: Path, layout: FlatLayout, weights: Array, file_name: str = WEIGHTS
) -> None:
    """Read the parameters, or with ``AVERAGE`` their average, into a flat buffer.

    Raises:
        RunError: a file is missing or damaged, or holds another model's tensors.
    """
    _load(checkpoint, file_name, layout.named(weights))


def load_optimizer(checkpoint: Path, tensors: dict[str, Array]) -> None:
    """Read the optimizer's state into arrays by name; errors as :func:`load_weights`."""
    _load(checkpoint, OPTIMIZER, tensors)


def load_lesson(checkpoint: Path, arrays: dict[str, Array]) -> None:
    """Read the lesson's arrays, if it keeps any, by name; errors as :func:`load_weights`."""
    if arrays:
        _load(checkpoint, LESSON, arrays)


def _load(checkpoint: Path, file_name: str, into: dict[str, Array]) -> None:
    path = checkpoint / file_name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}; restore it from a copy") from None
    want = load_state(checkpoint).get("sha256", {})
    if not isinstance(want, dict) or want.get(file_name) != hashlib.sha256(data).hexdigest():
        raise RunError(f"{path} is damaged: its sha256 is not the one in {STATE}; restore it")
    try:
        found = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise RunError(f"{path} is not a safetensors file: {error}") from None
    shapes = {key: tuple(tensor.shape) for key, tensor in into.items()}
    for key in sorted(shapes.keys() | found.keys()):
        if key not in found:
            raise RunError(f"{path} is of another model: it has no tensor '{key}'")
        if key not in shapes:
            raise RunError(f"{path} is of another model: this one has no tensor '{key}'")
        if found[key].shape != shapes[key]:
            raise RunError(
                f"{path} is of another model: '{key}' has shape {found[key].shape}, "
                f"this model needs {shapes[key]}"
            )
        if found[key].dtype != into[key].dtype:
            raise RunError(f"{path}: '{key}' is {found[key].dtype}, not {into[key].dtype}")
    for key, tensor in into.items():
        tensor[...] = np.asarray(found[key])


def _is_our_name(name: object) -> bool:
    return isinstance(name, str) and name.startswith("step-") and name[5:].isdigit()
