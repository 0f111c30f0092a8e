"""The global norm's sum of squares and the factor that clips it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptool.optim.norm import BLOCK, clip_scale, sum_of_squares


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [0, 1, 7, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_sum_of_squares_is_exact_to_float64_rounding(dtype: type, n: int) -> None:
    x = np.random.default_rng(n).normal(size=n).astype(dtype)
    exact = math.fsum(float(value) ** 2 for value in x)
    assert sum_of_squares(x) == pytest.approx(exact, rel=1e-13, abs=0)
    assert isinstance(sum_of_squares(x), float)


def test_sum_of_squares_accumulates_float32_in_float64() -> None:
    x = np.full(2**20, 1.1, np.float32)
    exact = 2**20 * float(x[0]) ** 2
    assert sum_of_squares(x) == pytest.approx(exact, rel=1e-12)
    # Squares that a float32 cannot hold.
    assert sum_of_squares(np.array([1e30, 1e-30], np.float32)) == pytest.approx(1e60, rel=1e-6)


def test_sum_of_squares_gives_the_same_bits_wherever_the_array_lies() -> None:
    x = np.random.default_rng(0).normal(size=2 * BLOCK + 37).astype(np.float32)
    found = set()
    for shift in range(17):
        moved = np.zeros(x.size + 17, np.float32)[shift : shift + x.size]
        moved[:] = x
        found.add(sum_of_squares(moved))
    assert len(found) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 5, BLOCK, 2 * BLOCK])
def test_sum_of_squares_lets_non_finite_numbers_through(bad: float, place: int) -> None:
    x = np.ones(2 * BLOCK + 1, np.float32)
    x[place] = bad
    assert not math.isfinite(sum_of_squares(x))


@given(st.floats(0, 1e30), st.floats(1e-6, 1e6))
def test_clip_scale_bounds_the_norm_and_never_enlarges(norm: float, clip_norm: float) -> None:
    scale = clip_scale(norm, clip_norm)
    assert 0 < scale <= 1
    assert scale * norm <= clip_norm * (1 + 1e-12)
    if norm + 1e-6 <= clip_norm:
        assert scale == 1


def test_clip_scale_by_hand() -> None:
    assert clip_scale(0.0, 1.0) == 1.0
    assert clip_scale(4.0, 1.0) == pytest.approx(1 / 4.000001, rel=1e-15)
    # The 1e-6 of PyTorch's rule shows at tiny norms.
    assert clip_scale(1e-6, 1e-6) == pytest.approx(0.5, rel=1e-12)


def test_clip_scale_without_a_limit_is_one() -> None:
    assert clip_scale(1e9, None) == 1.0
