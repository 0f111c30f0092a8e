"""What differs between two runs: settings, machine, text, metrics, and the bits of the last
checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
from safetensors.numpy import load_file

from bptool.config.load import flatten, resolve
from bptool.errors import RunError
from bptool.files import read_replacing
from bptool.training.checkpoint import CheckpointStore, load_state
from bptool.training.manifest import decides_the_bits
from bptool.training.metrics import read_metrics
from bptool.training.run_folder import RunFolder
from bptool.training.run_seal import OF_THE_FILES, read_manifest

TIMINGS = {"seconds"}
_ABSENT = "-"


class Difference(NamedTuple):
    """One thing that differs."""

    kind: str
    """``setting``, ``manifest``, ``metrics``, ``samples``, ``state`` or ``tensor``."""
    what: str
    left: str
    right: str
    explains: bool = False
    """Whether it makes the last bits differ by itself."""


def compare_runs(left: Path, right: Path) -> list[Difference]:
    """All differences between two runs, causes before effects.

    Raises:
        RunError: one of them is no run, or damaged.
    """
    folders = RunFolder(left), RunFolder(right)
    for folder in folders:
        folder.require_run()
        read_manifest(folder)
    return [*_settings(*folders), *_manifests(*folders), *compare_results(*folders)]


def compare_results(left: RunFolder, right: RunFolder) -> Iterator[Difference]:
    """What two runs of the same settings on the same machine may not differ in."""
    yield from _metrics(left, right)
    yield from _samples(left, right)
    yield from _checkpoints(left, right)


def _settings(left: RunFolder, right: RunFolder) -> Iterator[Difference]:
    a, b = (flatten(resolve(folder.config, readable=True).config) for folder in (left, right))
    for key in sorted(a.keys() | b.keys()):
        if a.get(key) != b.get(key):
            yield Difference("setting", key, a.get(key, _ABSENT), b.get(key, _ABSENT), True)


def _manifests(left: RunFolder, right: RunFolder) -> Iterator[Difference]:
    a, b = (_leaves(_about(folder)) for folder in (left, right))
    for key in sorted(a.keys() | b.keys()):
        if a.get(key) != b.get(key):
            values = a.get(key, _ABSENT), b.get(key, _ABSENT)
            yield Difference("manifest", key, *values, decides_the_bits(key))


def _about(folder: RunFolder) -> dict[str, Any]:
    manifest = read_manifest(folder)
    return {key: value for key, value in manifest.items() if key not in OF_THE_FILES}


def _leaves(value: Any, place: str = "") -> dict[str, str]:
    if not isinstance(value, dict):
        return {place: value if isinstance(value, str) else json.dumps(value)}
    found: dict[str, str] = {}
    for key, inner in value.items():
        found |= _leaves(inner, f"{place}.{key}" if place else str(key))
    return found


def _metrics(left: RunFolder, right: RunFolder) -> Iterator[Difference]:
    """The first record that differs."""
    a, b = (_records(folder) for folder in (left, right))
    for one, other in zip(a, b, strict=False):
        for key in [*one, *(key for key in other if key not in one)]:
            if key not in TIMINGS and one.get(key) != other.get(key):
                where = f"{one.get('kind')} of step {one.get('step'):,}: {key}"
                yield Difference("metrics", where, str(one.get(key)), str(other.get(key)))
                return
    if len(a) != len(b):
        yield Difference("metrics", "records", str(len(a)), str(len(b)))


def _records(folder: RunFolder) -> list[dict[str, Any]]:
    return read_metrics(folder.metrics) if folder.metrics.exists() else []


def _samples(left: RunFolder, right: RunFolder) -> Iterator[Difference]:
    a, b = (_blocks(folder.samples) for folder in (left, right))
    for one, other in zip(a, b, strict=False):
        if one != other:
            yield Difference("samples", one.partition("\n")[0], repr(one[:60]), repr(other[:60]))
            return
    if len(a) != len(b):
        yield Difference("samples", "samples", str(len(a)), str(len(b)))


def _blocks(path: Path) -> list[str]:
    if not path.exists():
        return []
    return read_replacing(path).split("\n== ")[1:]


def _checkpoints(left: RunFolder, right: RunFolder) -> Iterator[Difference]:
    """Whether the last checkpoints are the same, and if not, in which tensor first."""
    paths = [_last(folder) for folder in (left, right)]
    names = [path.name if path else _ABSENT for path in paths]
    if names[0] != names[1]:
        yield Difference("state", "last checkpoint", names[0], names[1])
    if paths[0] is None or paths[1] is None or names[0] != names[1]:
        return
    states = [load_state(path) for path in paths if path]
    hashes = [_hashes(state, path) for state, path in zip(states, paths, strict=True)]
    a, b = map(_leaves, states)
    for key in sorted(a.keys() | b.keys()):
        if a.get(key) != b.get(key):
            yield Difference("state", key, a.get(key, _ABSENT), b.get(key, _ABSENT))
    for name in sorted(hashes[0].keys() | hashes[1].keys()):
        if hashes[0].get(name) != hashes[1].get(name):
            yield _first_tensor(name, *(path / name for path in paths if path))


def _last(folder: RunFolder) -> Path | None:
    store = CheckpointStore(folder.checkpoints)
    name = store.index().last
    return None if name is None else folder.checkpoints / name


def _hashes(state: dict[str, Any], checkpoint: Path | None) -> dict[str, Any]:
    """The table of a checkpoint's files, taken out of its state; names in it lead nowhere else."""
    found = state.pop("sha256", None)
    if not isinstance(found, dict) or any(Path(name).name != name for name in found):
        raise RunError(f"{checkpoint}: no table of its files is in its state; it is damaged")
    return found


def _first_tensor(name: str, left: Path, right: Path) -> Difference:
    """The first tensor of two files that differs."""
    try:
        a, b = (load_file(path) if path.exists() else {} for path in (left, right))
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise RunError(f"{left} or {right} cannot be read: {error}") from None
    for key in sorted(a.keys() | b.keys()):
        one, other = a.get(key), b.get(key)
        if one is None or other is None or one.shape != other.shape:
            shapes = [_ABSENT if x is None else str(x.shape) for x in (one, other)]
            return Difference("tensor", f"{name}: {key}", shapes[0], shapes[1])
        unequal = one.reshape(-1).view(np.uint8) != other.reshape(-1).view(np.uint8)
        if unequal.any():
            at = int(np.argmax(unequal)) // one.itemsize
            place = [int(i) for i in np.unravel_index(at, one.shape)]
            values = repr(float(one.reshape(-1)[at])), repr(float(other.reshape(-1)[at]))
            return Difference("tensor", f"{name}: {key} {place}", *values)
    return Difference("tensor", f"{name}: bytes beside the tensors", _ABSENT, _ABSENT)
