"""The machine's limits: what the kernels that measure them compute, and what comes of the times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bptool.ops import streams
from bptool.ops.matmul import peak
from bptool.ops.matmul.target import lanes_of
from bptool.training import machine
from bptool.training.profile import _bandwidth_of


def alone(function: Callable[[int], Any]) -> list[Any]:
    return [function(0)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_multiply_adds_are_all_made(dtype: Any) -> None:
    factor, term, n_turns = dtype(0.75), dtype(0.5), 3
    sums = np.arange(peak.SUMS, dtype=dtype)
    for _ in range(n_turns * peak.UNROLLED):
        sums = sums * factor + term
    lanes = lanes_of(sums.itemsize)
    expected = lanes * float(sums.sum())
    assert peak.multiply_adds(n_turns, factor, term) == pytest.approx(expected, rel=1e-5)
    assert peak.flops_of(n_turns, sums.itemsize) == 2 * n_turns * peak.UNROLLED * lanes * sums.size


def test_streams_go_over_the_whole_array() -> None:
    x = np.array([1, 2, 4, 8, 16, 32, 64], streams.DTYPE)
    assert streams.read(x, 2) == 127
    streams.change(x, 3)  # 0 + 1 + 2
    np.testing.assert_array_equal(x, [4, 5, 7, 11, 19, 35, 67])
    streams.add(x, 1)
    np.testing.assert_array_equal(x, [4, 5, 7, 11, 11, 16, 67])
    streams.write(x, 3)
    np.testing.assert_array_equal(x, [2] * 7)


def test_a_larger_set_is_never_faster_than_a_smaller_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "STREAM_ROUND_BYTES", 2**18)
    monkeypatch.setattr(machine, "STREAMED_BYTES", 2**21)
    found = machine.measure_bandwidths(alone, 1)
    assert list(found) == [n for n in machine.WORKING_SETS if n <= 2**21]
    assert len(found) >= 4
    rates = list(found.values())
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0


def test_the_peak_is_of_the_fastest_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PEAK_SECONDS", 0.05)
    monkeypatch.setattr(machine, "PEAK_TURNS", 1000)
    rounds = iter([[1e-9, 1e-9], [5.0, 1.0], [1.5, 2.0], [3.0, 1.0]])  # the first compiles

    def run(function: Callable[[int], Any]) -> list[float]:
        function(0)
        return next(rounds, [4.0, 4.0])

    # two workers, of whom the slower one counts
    assert machine.measure_peak_flops(run) == 2 * peak.flops_of(1000, 4) / 2.0


def test_a_call_is_held_to_the_cache_that_it_fits() -> None:
    rates = {1000: 9.0, 4000: 5.0, 16000: 2.0}
    assert [_bandwidth_of(rates, n) for n in (10, 1000, 3999, 4000, 1e9)] == [9, 9, 9, 5, 2]


def test_the_most_memory_in_use_counts_what_was_freed() -> None:
    before = machine.peak_memory_bytes()
    if before is None:
        pytest.skip("this system does not tell")
    np.ones(1 << 28, np.uint8)
    after = machine.peak_memory_bytes()
    assert after is not None
    assert after >= 1 << 28
    assert after >= before
