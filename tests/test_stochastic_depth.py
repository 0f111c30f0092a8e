"""Which branches are left out of which sequence, and that nothing else decides it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bptool.models.presets import GPT2Config
from bptool.models.transformer_config import StochasticDepth
from bptool.ops.dropout import MaskKey, dropout
from bptool.ops.stochastic_depth import RULES, depth_rate, stochastic_depth

N_TIME = 5


def kept(
    n_rows: int,
    p: float = 0.4,
    seed: int = 7,
    step: int = 5,
    branch: int = 2,
    row0: int = 0,
    width: int = 3,
    dtype: str = "float32",
) -> Any:
    """The map of ones: 0 where the branch is left out, the scale elsewhere."""
    x = np.ones((n_rows, width), dtype)
    stochastic_depth(x, p, MaskKey(seed, step, 0), branch, row0, N_TIME)
    return x


@given(cuts=st.lists(st.integers(0, 60), max_size=6), first=st.integers(0, 2**34))
@settings(max_examples=50)
def test_sequences_are_whole_however_the_rows_are_cut(cuts: list[int], first: int) -> None:
    row0 = first * N_TIME
    whole = kept(60, row0=row0)
    by_sequence = whole.reshape(12, N_TIME * 3)
    assert np.all(by_sequence == by_sequence[:, :1])
    edges = [0, *sorted(cuts), 60]
    parts = [kept(stop - start, row0=row0 + start) for start, stop in itertools.pairwise(edges)]
    assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.8])
def test_the_rate_and_the_expectation_are_right(p: float) -> None:
    n = 20_000
    y = kept(n * N_TIME, p, width=1, dtype="float64")[::N_TIME, 0]
    deviation = np.sqrt(p * (1 - p) / n)
    assert abs(np.mean(y == 0) - p) < 5 * deviation
    assert abs(y.mean() - 1) < 5 * deviation / (1 - p)
    assert set(np.unique(y)) == {0.0, 1 / (1 - p)}
    both = np.mean((y[1:] == 0) & (y[:-1] == 0))
    assert abs(both - p * p) < 5 * np.sqrt(p * p / n)


@pytest.mark.parametrize(
    "change", [{"seed": 8}, {"seed": 7 + 2**40}, {"step": 6}, {"branch": 3}, {"row0": N_TIME}]
)
def test_seed_step_branch_and_sequence_each_give_another_draw(change: dict[str, int]) -> None:
    first, second = (kept(2000 * N_TIME, **c)[::N_TIME, 0] == 0 for c in ({}, change))
    assert abs(np.mean(first == second) - (0.4**2 + 0.6**2)) < 0.06


def test_its_draws_are_not_those_of_dropout() -> None:
    n, key = 4000, MaskKey(7, 5, 0)
    ours = kept(n * N_TIME, 0.5, branch=2)[::N_TIME, 0] == 0
    dropped = np.ones((n, 1), np.float32)
    dropout(dropped, 0.5, key, 2, 0)
    assert abs(np.mean(ours == (dropped[:, 0] == 0)) - 0.5) < 0.05


def test_the_map_is_its_own_transpose_and_the_same_in_both_types() -> None:
    x, dy = np.random.default_rng(0).standard_normal((2, 40, 6))
    factor = kept(40, width=6, dtype="float64")
    assert np.array_equal(factor == 0, kept(40, width=6) == 0)
    for values in (x.copy(), dy.copy()):
        found = values.copy()
        stochastic_depth(found, 0.4, MaskKey(7, 5, 0), 2, 0, N_TIME)
        assert np.array_equal(found, values * factor)


def test_nothing_is_left_out_at_zero() -> None:
    assert np.all(kept(50, 0.0) == 1)


def test_the_rate_grows_with_the_layer() -> None:
    linear = [depth_rate(0.4, RULES["linear"], layer, 4) for layer in range(4)]
    assert linear == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert [depth_rate(0.4, RULES["uniform"], layer, 4) for layer in range(4)] == [0.4] * 4


def test_a_number_in_a_configuration_is_the_last_layers_rate() -> None:
    whole = GPT2Config(stochastic_depth=StochasticDepth(rate=0.2))
    assert GPT2Config(stochastic_depth=0.2).depth() == whole.depth() == (0.2, RULES["linear"])
    uniform = GPT2Config(stochastic_depth={"rate": 0.2, "rule": "uniform"})
    assert uniform.depth() == (0.2, RULES["uniform"])
    with pytest.raises(ValueError, match="Input should be less than 1"):
        GPT2Config(stochastic_depth=1.0)


def test_one_number_for_dropout_stands_for_gpt2s_own_places() -> None:
    assert GPT2Config(dropout=0.2).dropout_sites() == (0.2, 0.2, 0.2, 0.0)
    assert GPT2Config(dropout={"hidden": 0.3}).dropout_sites() == (0.0, 0.0, 0.0, 0.3)
