"""Tensor files: what is written is what the safetensors library reads, in little memory."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from bptool.training.tensor_file import write_tensors


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    tensors = {
        "h.0.weight": generator.standard_normal((3, 5), np.float32),
        "mu": np.array([0.25]),
        "ünïcode": generator.standard_normal((7,), np.float32),
        "columns": generator.standard_normal((4, 6), np.float32)[:, ::2],
        "none": np.zeros((0, 4), np.float32),
    }
    path = tmp_path / "a.safetensors"
    digest = write_tensors(path, tensors)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    found = safetensors.numpy.load_file(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        np.testing.assert_array_equal(found[name], tensor)
    with safetensors.safe_open(path, "numpy") as file:
        assert file.metadata() == {"format": "bptool"}


def test_the_same_tensors_give_the_same_file_in_any_order(tmp_path: Path) -> None:
    tensors = {"b": np.ones(3, np.float32), "a": np.zeros(2), "c": np.ones(1, np.float32)}
    first = write_tensors(tmp_path / "1", tensors)
    assert write_tensors(tmp_path / "2", dict(reversed(tensors.items()))) == first


def test_writing_takes_no_memory_for_a_copy(tmp_path: Path) -> None:
    tensors = {name: np.ones(1 << 20, np.float32) for name in "ab"}
    tracemalloc.start()
    try:
        write_tensors(tmp_path / "a", tensors)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
