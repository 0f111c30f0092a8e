"""Philox against published answers, and the masks that are made from it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bptool.ops.dropout import MaskKey, dropout, dropout_row, mask_scratch
from bptool.ops.philox import philox, philox_lanes

KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
"""Of philox4x32-10, as published with Random123: counter, key, words."""


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_philox_gives_the_published_words(counter: Any, key: Any, words: Any) -> None:
    found = philox(*map(np.uint32, counter), *map(np.uint32, key))
    assert tuple(map(int, found)) == words


@pytest.mark.parametrize("n_lanes", [1, 5, 16, 33])
def test_philox_in_lanes_equals_philox(n_lanes: int) -> None:
    words = np.random.default_rng(2).integers(0, 2**32, (4, n_lanes), np.uint32)
    key = np.uint32(0xDEADBEEF), np.uint32(17)
    want = np.array([philox(*words[:, b], *key) for b in range(n_lanes)], np.uint32).T
    philox_lanes(*words, *key)
    assert np.array_equal(words, want)


def masked(
    n_rows: int,
    width: int,
    p: float = 0.3,
    seed: int = 7,
    step: int = 5,
    site: int = 2,
    row0: int = 0,
    dtype: str = "float32",
) -> Any:
    """Dropout of ones: 0 where dropped, the scale where kept."""
    x = np.ones((n_rows, width), dtype)
    dropout(x, p, MaskKey(seed, step, 0), site, row0)
    return x


@given(cuts=st.lists(st.integers(0, 40), max_size=6), width=st.integers(1, 40))
@settings(max_examples=50)
def test_the_mask_is_the_same_however_the_rows_are_cut(cuts: list[int], width: int) -> None:
    whole = masked(40, width)
    edges = [0, *sorted(cuts), 40]
    parts = [masked(stop - start, width, row0=start) for start, stop in itertools.pairwise(edges)]
    assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("width", [1, 3, 7, 8, 9, 15, 16, 17, 64, 129])
def test_a_shorter_row_is_the_start_of_a_longer_one(width: int) -> None:
    assert np.array_equal(masked(20, width), masked(20, 144)[:, :width])
    row = np.ones(144, np.float32)
    dropout_row(row, width, 0.3, MaskKey(7, 5, 0), 2, 4, mask_scratch(row))
    assert np.array_equal(row[:width], masked(5, 144)[4, :width])
    assert np.all(row[width:] == 1)


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_the_rate_and_the_expectation_are_right(p: float) -> None:
    y = masked(2000, 123, p).astype(np.float64)
    n = y.size
    deviation = np.sqrt(p * (1 - p) / n)
    assert abs(np.mean(y == 0) - p) < 5 * deviation
    assert abs(y.mean() - 1) < 5 * deviation / (1 - p)
    scale = 65536 / (65536 - round(65536 * p))
    assert set(np.unique(y)) == {0.0, np.float64(np.float32(scale))}
    # each of the eight lanes of a word's block, and neighbours in rows and columns, on their own
    dropped = y == 0
    bound = 5 * np.sqrt(p * (1 - p) / (n / 123))
    assert np.max(np.abs(dropped.mean(axis=0) - p)) < bound
    for a, b in ((dropped[:, 1:], dropped[:, :-1]), (dropped[1:], dropped[:-1])):
        both = p * p
        assert abs(np.mean(a & b) - both) < 5 * np.sqrt(both * (1 - both) / a.size)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 8},
        {"seed": 7 + 2**40},
        {"step": 6},
        {"site": 3},
        {"row0": 1},
        {"row0": 2**33},
    ],
)
def test_seed_step_site_and_row_each_give_another_mask(change: dict[str, int]) -> None:
    first, second = masked(200, 50) == 0, masked(200, 50, **change) == 0
    agreement = np.mean(first == second)
    assert abs(agreement - (0.3**2 + 0.7**2)) < 0.03


def test_types_share_a_mask() -> None:
    assert np.array_equal(masked(30, 21) == 0, masked(30, 21, dtype="float64") == 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_backward_is_the_forwards_map(dtype: str) -> None:
    generator = np.random.default_rng(0)
    x, dy = (generator.standard_normal((17, 29)).astype(dtype) for _ in range(2))
    y, dx = x.copy(), dy.copy()
    key = MaskKey(3, 4, 0)
    dropout(y, 0.4, key, 1, 10)
    dropout(dx, 0.4, key, 1, 10)
    scale = masked(17, 29, 0.4, 3, 4, 1, 10, dtype)
    assert np.array_equal(y, x * scale)
    assert np.array_equal(dx, dy * scale)
    # <y, dy> = <x, dx>: the map is its own transpose
    assert np.vdot(y, dy) == pytest.approx(np.vdot(x, dx), rel=1e-4)


def test_nothing_is_dropped_at_zero_and_everything_just_below_one() -> None:
    x = np.random.default_rng(1).standard_normal((9, 13)).astype(np.float32)
    y = x.copy()
    dropout(y, 0.0, MaskKey(1, 2, 0), 1, 0)
    assert np.array_equal(x, y)
    assert np.all(masked(50, 33, 1 - 1e-9) == 0)
