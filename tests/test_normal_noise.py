"""Gaussian noise: its numbers against Box and Muller's formula, its distribution, its key."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bptool.ops.dropout import MaskKey, dropout
from bptool.ops.normal_noise import LANES, add_normal_noise
from bptool.ops.philox import philox


def noise(n: int, seed: int = 7, step: int = 5, first: int = 0, dtype: str = "float64") -> Any:
    x = np.zeros(n, dtype)
    add_normal_noise(x, 1.0, seed, step, first)
    return x


def test_numbers_are_those_of_the_formula() -> None:
    seed, step = 2**40 + 9, 12
    found = noise(64, seed, step, first=128)
    for b in range(LANES):
        call = 128 // 4 + b
        words = philox(*map(np.uint32, (call, 0, step, 0xC0000000, seed % 2**32, seed >> 32)))
        for half, (w, v) in enumerate((words[:2], words[2:])):
            radius = np.sqrt(-2 * np.log(((int(w) >> 8) + 0.5) / 2**24))
            bits = int(v) >> 8
            quarters = ((bits & 0x3FFFFF) + 0.5) / 2**22 - 0.5
            turns = (bits >> 22 & 1) + 2 * (bits >> 23)
            angle = np.pi / 2 * (quarters + turns)
            x, y = found[2 * half * LANES + b], found[(2 * half + 1) * LANES + b]
            assert x == pytest.approx(radius * np.cos(angle), abs=3e-6)
            assert y == pytest.approx(radius * np.sin(angle), abs=3e-6)


@given(
    cuts=st.lists(st.integers(0, 200), max_size=5),
    first=st.integers(0, 2**36),
    dtype=st.sampled_from(["float32", "float64"]),
)
@settings(max_examples=60)
def test_the_noise_is_the_same_however_the_array_is_cut(
    cuts: list[int], first: int, dtype: str
) -> None:
    whole = noise(200, first=first, dtype=dtype)
    edges = [0, *sorted(cuts), 200]
    parts = [noise(b - a, first=first + a, dtype=dtype) for a, b in itertools.pairwise(edges)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.array_equal(noise(200, first=first), whole.astype(np.float32).astype(np.float64))


def test_it_is_normal_and_its_numbers_are_independent() -> None:
    z = noise(2**18)
    assert stats.kstest(z, "norm").pvalue > 1e-3
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    assert z.var() == pytest.approx(1, rel=5 * np.sqrt(2 / z.size))
    assert stats.kurtosis(z) == pytest.approx(0, abs=5 * np.sqrt(24 / z.size))
    bound = 5 / np.sqrt(z.size)
    for lag in (1, 2, LANES, 2 * LANES, 64):
        assert abs(np.mean(z[lag:] * z[:-lag])) < bound
        assert abs(np.mean(z[lag:] ** 2 * z[:-lag] ** 2) - 1) < 3 * bound
    # the four numbers of a call
    calls = z.reshape(-1, 4, LANES)
    for a, b in itertools.combinations(range(4), 2):
        assert abs(np.mean(calls[:, a] * calls[:, b])) < 2 * bound


@pytest.mark.parametrize(
    "change", [{"seed": 8}, {"seed": 7 + 2**40}, {"step": 6}, {"first": 64}, {"first": 2**34}]
)
def test_seed_step_and_index_each_give_other_noise(change: dict[str, int]) -> None:
    n = 2**14
    assert abs(np.corrcoef(noise(n), noise(n, **change))[0, 1]) < 5 / np.sqrt(n)


def test_it_has_nothing_in_common_with_dropout() -> None:
    n = 2**14
    kept = np.ones((1, n), np.float32)
    dropout(kept, 0.5, MaskKey(7, 5, 0), 0, 0)
    assert abs(np.corrcoef(noise(n), kept[0])[0, 1]) < 5 / np.sqrt(n)


def test_it_is_added_with_its_deviation() -> None:
    x = np.arange(100.0)
    add_normal_noise(x, 0.25, 7, 5, 0)
    np.testing.assert_allclose(x, np.arange(100.0) + 0.25 * noise(100), rtol=1e-15, atol=1e-15)
