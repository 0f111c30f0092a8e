"""Checkpoints: any damage is noticed and the one before is offered, which ones are kept, and what a
hostile file may cost."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import tracemalloc
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_runs as runs

from bptool import files
from bptool.cli.main import main
from bptool.errors import DamagedError, RunError
from bptool.training.checkpoint import CheckpointStore, is_whole
from bptool.training.run_folder import RunFolder
from bptool.training.tensor_file import read_tensors, sha256_of, write_tensors

N_FLIPS, N_CUTS = 2000, 200


def _store(folder: Path, n: int = 3, **kept: Any) -> CheckpointStore:
    """A store with checkpoints of steps 1 to ``n``."""
    store = CheckpointStore(folder, **kept)
    folder.mkdir(exist_ok=True)
    for step in range(1, n + 1):
        weights = {"w": np.full((3, 5), step, np.float32), "b": np.arange(3, dtype=np.float32)}
        store.save(weights, {"m/w": np.ones(7)}, {"step": step, "loss_sum": 0.1, "lesson": {}})
    return store


def _positions(checkpoint: Path) -> list[tuple[Path, int]]:
    """Every byte of a checkpoint."""
    paths = sorted(path for path in checkpoint.iterdir() if path.is_file())
    return [(path, at) for path in paths for at in range(path.stat().st_size)]


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    checkpoint = _store(tmp_path, 1).resolve("last")
    assert is_whole(checkpoint)
    draw = random.Random(6)
    every = _positions(checkpoint)
    chosen = draw.sample(every, min(N_FLIPS, len(every)))
    chosen += draw.choices(every, k=N_FLIPS - len(chosen))
    for path, at in chosen:
        data = path.read_bytes()
        changed = bytearray(data)
        changed[at] ^= draw.randrange(1, 256)
        path.write_bytes(changed)
        assert not is_whole(checkpoint), (path.name, at, bytes(changed[at : at + 1]))
        path.write_bytes(data)
    assert is_whole(checkpoint)


def test_every_flipped_byte_of_the_index_is_noticed(tmp_path: Path) -> None:
    store = _store(tmp_path, 2, keep_last=2)
    path, draw = tmp_path / "index.json", random.Random(7)
    data = path.read_bytes()
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= draw.randrange(1, 256)
        path.write_bytes(changed)
        with pytest.raises(RunError):
            store.index()


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    checkpoint = _store(tmp_path, 1).resolve("last")
    for path, at in random.Random(8).sample(_positions(checkpoint), N_CUTS):
        data = path.read_bytes()
        path.write_bytes(data[:at])
        assert not is_whole(checkpoint), (path.name, at)
        path.write_bytes(data)
    assert is_whole(checkpoint)


def test_which_are_kept(tmp_path: Path) -> None:
    store = _store(tmp_path, 9, keep_last=2, keep_every=4)
    assert store.names() == [f"step-{step:08d}" for step in (4, 8, 9)]
    store.mark_best("step-00000009")
    store.save({}, {}, {"step": 10})
    store.save({}, {}, {"step": 11})
    assert store.names() == [f"step-{step:08d}" for step in (4, 8, 9, 10, 11)]
    assert store.index().best == "step-00000009"
    store.go_back("step-00000008", best_step=4)
    assert store.names() == [f"step-{step:08d}" for step in (4, 8)]
    assert (store.index().last, store.index().best) == ("step-00000008", "step-00000004")
    store.go_back("step-00000008", best_step=3)
    assert store.index().best is None
    assert store.resolve("best") == store.resolve("last")


def test_names_that_lead_elsewhere_are_none(tmp_path: Path) -> None:
    store = _store(tmp_path / "run", 1)
    (tmp_path / "step-00000007").mkdir()
    for name in ("../step-00000007", "/etc", "step-1", "step-٠٠٠٠٠٠٠١", "step-00000001\n", ""):
        with pytest.raises(RunError, match="has no checkpoint"):
            store.resolve(name)


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_links_that_lead_out_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("{}", encoding="utf-8")
    checkpoint = _store(tmp_path / "run", 1).resolve("last")
    (checkpoint / "state.json").unlink()
    (checkpoint / "state.json").symlink_to(secret)
    assert not is_whole(checkpoint)
    run = RunFolder(tmp_path / "run")
    run.manifest.write_text("{}", encoding="utf-8")
    run.samples.symlink_to(secret)
    with pytest.raises(RunError, match=r"samples\.txt leads out of"):
        run.require_run()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes with names")
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    checkpoint = _store(tmp_path, 1).resolve("last")
    for name in ("weights.safetensors", "state.json"):
        (checkpoint / name).unlink()
        os.mkfifo(checkpoint / name)
        assert not is_whole(checkpoint)


def _file_with_header(path: Path, header: bytes, length: int | None = None) -> str:
    n = len(header) if length is None else length
    path.write_bytes(n.to_bytes(8, "little") + header)
    return sha256_of(path)


def _entry(**changes: Any) -> bytes:
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **changes}
    return json.dumps({"w": entry}).encode() + bytes(16)


HOSTILE: dict[str, bytes] = {
    "nested": b"[" * 2_000_000,
    "objects in objects": b'{"w":' * 500_000,
    "no object": b"[]",
    "a number of many digits": b'{"w": ' + b"9" * 1_000_000 + b"}",
    "a place of many digits": b'{"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 1e999]}}',
    "no entry": b'{"w": 1}',
    "not UTF-8": b"\xff\xfe{}",
}


@pytest.mark.parametrize("header", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_header_costs_no_more_than_its_size(header: bytes, tmp_path: Path) -> None:
    path, array = tmp_path / "x.safetensors", np.zeros(4, np.float32)
    digest = _file_with_header(path, header)
    tracemalloc.start()
    with pytest.raises(RunError):
        read_tensors(path, {"w": array}, digest)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * len(header) + 4 * 2**20


@pytest.mark.parametrize("length", [17, 2**31, 2**62, 2**64 - 1])
def test_a_header_longer_than_the_file_is_not_read(length: int, tmp_path: Path) -> None:
    path, array = tmp_path / "x.safetensors", np.zeros(4, np.float32)
    digest = _file_with_header(path, b"{}", length)
    with pytest.raises(DamagedError, match="has no such length"):
        read_tensors(path, {"w": array}, digest)


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [-4]},
        {"shape": [2, 2]},
        {"shape": "4"},
        {"shape": [True]},
        {"shape": [2**70]},
        {"data_offsets": [-16, 0]},
        {"data_offsets": [16, 0]},
        {"data_offsets": [0, 8]},
        {"data_offsets": [2**60, 2**60 + 16]},
        {"data_offsets": [0]},
        {"dtype": "F64"},
        {"dtype": ["F32"]},
    ],
)
def test_numbers_of_a_header_are_held_to_the_file(changes: Any, tmp_path: Path) -> None:
    path, array = tmp_path / "x.safetensors", np.full(4, 7, np.float32)
    header = _entry(**changes)
    path.write_bytes((len(header) - 16).to_bytes(8, "little") + header)
    with pytest.raises(RunError):
        read_tensors(path, {"w": array}, sha256_of(path))
    assert (array == 7).all()


def test_a_file_far_larger_than_the_model_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.truncate(2**40)  # takes no room
    with pytest.raises(RunError, match=r"has 1\.1 TB, and this model needs 16 B"):
        read_tensors(path, {"w": np.zeros(4, np.float32)}, "")


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    path, draw = tmp_path / "x.safetensors", np.random.default_rng(1)
    want = {
        "a": draw.normal(size=(700, 900)).astype(np.float32),
        "b": draw.normal(size=(3, 1)),
        "c": np.asfortranarray(draw.normal(size=(40, 30)).astype(np.float32)),
        "none": np.zeros((0, 3), np.float32),
        "d": np.array(2.5),
    }
    digest = write_tensors(path, want)
    found = {name: np.zeros_like(array) for name, array in want.items()}
    strided = np.zeros((40, 60), np.float32)
    found["c"] = strided[:, ::2]
    read_tensors(path, found, digest)
    for name, array in want.items():
        assert np.array_equal(found[name], array), name


Usage = namedtuple("Usage", "total used free")


def test_too_little_space_is_seen_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = _store(tmp_path, 2)
    before = runs.snapshot(tmp_path)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: Usage(10**9, 10**9, 100_000))
    with pytest.raises(RunError, match=r"takes 106 kB and 100 kB are free; free some space"):
        store.save({"w": np.zeros(10_000, np.float32)}, {}, {"step": 3})
    assert runs.snapshot(tmp_path) == before


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with checkpoints at 10 and 12, the best among them."""
    runs.make_quick(monkeypatch, tmp_path / "cache")
    values = runs.settings(runs.write_text(tmp_path), runs.GPT2)
    runs.train(runs.config_of(values), tmp_path / "unbroken")
    shutil.copytree(tmp_path / "unbroken", tmp_path / "run")
    return tmp_path / "run"


def _harm_tensors(checkpoint: Path) -> None:
    path = checkpoint / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "tensors": _harm_tensors,
    "state": lambda checkpoint: (checkpoint / "state.json").write_bytes(b"{}"),
    "no state": lambda checkpoint: (checkpoint / "state.json").unlink(),
    "index": lambda checkpoint: (checkpoint.parent / "index.json").write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_one_is_named_and_the_one_before_is_offered(
    damage: Callable[[Path], object], trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(trained / "checkpoints" / "step-00000012")
    capsys.readouterr()
    assert main(["train", str(trained), "--resume", "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert "step-00000012" in error or "index.json" in error
    offered = re.search(r"is whole: go on from it by `bptool (.+)`", error)
    assert offered, error
    assert main([*offered[1].split(), "--quiet"]) == 0
    left, want = runs.left_behind(trained), runs.left_behind(trained.parent / "unbroken")
    assert (left["metrics"], left["samples"]) == (want["metrics"], want["samples"])
    last = "checkpoints/step-00000012/weights.safetensors"
    assert left["hashes"][last] == want["hashes"][last]


def test_the_least_damaged_run_is_offered_nothing(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for checkpoint in (trained / "checkpoints").glob("step-*"):
        _harm_tensors(checkpoint)
    assert main(["train", str(trained), "--resume", "--quiet"]) == 2
    assert "no other checkpoint is whole: restore it" in capsys.readouterr().err
    assert main(["train", str(trained), "--resume", "--checkpoint", "step-1", "--quiet"]) == 2
    error = capsys.readouterr().err
    assert "has no checkpoint 'step-1'; there are step-00000010, step-00000012" in error
    config = str(trained / "config.yaml")
    assert main(["train", config, "--checkpoint", "step-00000010", "--quiet"]) == 2
    assert "add --resume" in capsys.readouterr().err
