"""Mini-batches: a pure function of (seed, step), and every target of an epoch exactly once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptool.data.batches import (
    MASKED,
    Batches,
    count_windows,
    evaluation_windows,
    raw_words,
    shuffled,
)
from bptool.errors import ConfigError, DataError


def filled(batches: Batches, step: int) -> tuple[np.ndarray, np.ndarray, int]:
    shape = (batches.n_sequences, batches.context)
    tokens, targets = np.full(shape, 77, np.int32), np.full(shape, 77, np.int32)
    n = batches.fill(step, tokens, targets)
    assert n == np.count_nonzero(targets != MASKED)
    return tokens, targets, n


def numbered(n: int) -> np.ndarray:
    """Tokens that say where they stand, so that a target tells its place."""
    return np.arange(n, dtype=np.uint16)


@given(
    n=st.integers(2, 400),
    context=st.integers(1, 40),
    batch_size=st.integers(1, 30),
    seed=st.integers(0, 2**63 - 1),
)
def test_an_epoch_sees_every_target_once(n: int, context: int, batch_size: int, seed: int) -> None:
    if n < context + 1:
        n += context
    batches = Batches(numbered(n), batch_size, context, "epoch", seed)
    n_epochs = 3
    rows = []
    for step in range(-(-n_epochs * batches.n_windows // batch_size)):
        tokens, targets, _ = filled(batches, step)
        counted = targets != MASKED
        np.testing.assert_array_equal(targets[counted], tokens[counted] + 1)
        assert not tokens[~counted].any()
        rows += list(targets)
    for epoch in range(n_epochs):
        own = rows[epoch * batches.n_windows : (epoch + 1) * batches.n_windows]
        seen = np.sort(np.concatenate(own))
        np.testing.assert_array_equal(seen[seen != MASKED], np.arange(1, n))


@given(n=st.integers(2, 300), context=st.integers(1, 50), seed=st.integers(0, 2**63 - 1))
def test_random_windows_lie_inside_the_split(n: int, context: int, seed: int) -> None:
    if n < context + 1:
        n += context
    batches = Batches(numbered(n), 7, context, "random", seed)
    for step in range(3):
        tokens, targets, n_targets = filled(batches, step)
        assert n_targets == tokens.size
        np.testing.assert_array_equal(np.diff(tokens, axis=1), 1)
        np.testing.assert_array_equal(targets, tokens + 1)
        assert targets.max() < n


def test_random_offsets_reach_both_ends_and_are_uniform() -> None:
    batches = Batches(numbered(24), 1000, 4, "random", 3)
    offsets = np.concatenate([batches.offsets(step) for step in range(20)])
    counts = np.bincount(offsets)
    assert len(counts) == 20
    # 20 places, 1000 expected at each, standard deviation 31.
    assert np.abs(counts - 1000).max() < 5 * 31


@pytest.mark.parametrize("sampling", ["random", "epoch"])
def test_a_batch_depends_on_seed_and_step_alone(sampling: Any) -> None:
    def draw(seed: int, step: int) -> np.ndarray:
        return filled(Batches(numbered(1000), 8, 16, sampling, seed), step)[0]

    one = Batches(numbered(1000), 8, 16, sampling, 5)
    for step in (7, 0, 3, 7):
        np.testing.assert_array_equal(filled(one, step)[0], draw(5, step))
    assert (draw(5, 1) != draw(5, 2)).any()
    assert (draw(5, 1) != draw(6, 1)).any()


def test_the_order_differs_from_epoch_to_epoch() -> None:
    batches = Batches(numbered(1001), 100, 10, "epoch", 1)
    assert batches.steps_per_epoch == 1
    orders = [tuple(batches.offsets(step)) for step in range(10)]
    assert len(set(orders)) == 10
    assert len({tuple(sorted(order)) for order in orders}) == 1


def test_a_batch_ends_one_epoch_and_begins_the_next() -> None:
    batches = Batches(numbered(31), 4, 10, "epoch", 1)
    single = Batches(numbered(31), 1, 10, "epoch", 1)
    for step in range(6):
        expected = [single.offsets(step * 4 + i)[0] for i in range(4)]
        assert batches.offsets(step).tolist() == expected


def test_full_batch_is_the_split_in_order() -> None:
    batches = Batches(numbered(26), "full", 10, seed=9)
    assert (batches.n_sequences, batches.n_windows, batches.steps_per_epoch) == (3, 3, 1)
    for step in (0, 1):
        tokens, targets, n = filled(batches, step)
        assert n == 25
        assert tokens[2].tolist() == [20, 21, 22, 23, 24, 0, 0, 0, 0, 0]
        assert targets[2].tolist() == [21, 22, 23, 24, 25, *[MASKED] * 5]


def test_batch_of_one() -> None:
    tokens, targets, n = filled(Batches(numbered(50), 1, 8), 0)
    assert tokens.shape == targets.shape == (1, 8)
    assert n == 8


def test_the_split_itself_is_never_written(tmp_path: Any) -> None:
    path = tmp_path / "tokens"
    numbered(100).tofile(path)
    batches = Batches(np.memmap(path, np.uint16, "r"), 4, 8, "epoch", 0)
    filled(batches, 0)
    np.testing.assert_array_equal(np.fromfile(path, np.uint16), numbered(100))


@pytest.mark.parametrize("n", [0, 1, 8])
def test_too_few_tokens(n: int) -> None:
    with pytest.raises(DataError, match=f"{n} tokens are too few for a context of 8"):
        Batches(numbered(n), 1, 8)


@pytest.mark.parametrize(
    ("batch_size", "context", "sampling"), [(0, 4, "random"), (1, 0, "random"), (1, 4, "other")]
)
def test_settings_out_of_range(batch_size: Any, context: int, sampling: Any) -> None:
    with pytest.raises(ConfigError):
        Batches(numbered(100), batch_size, context, sampling)


def test_arrays_of_another_shape_are_refused() -> None:
    batches = Batches(numbered(100), 4, 8)
    right, wrong = np.empty((4, 8), np.int32), np.empty((4, 9), np.int32)
    for tokens, targets in ((wrong, right), (right, wrong)):
        with pytest.raises(ValueError, match=r"shape \(4, 8\)"):
            batches.fill(0, tokens, targets)


@given(n=st.integers(1, 3000), seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 2**40))
def test_shuffled_is_a_permutation(n: int, seed: int, epoch: int) -> None:
    order = shuffled(np.arange(n, dtype=np.uint64), n, seed, epoch)
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    # One index at a time gives the same as all at once.
    alone = shuffled(np.array([n // 2], np.uint64), n, seed, epoch)
    assert alone[0] == order[n // 2]


def test_shuffled_of_a_huge_range_needs_no_memory() -> None:
    n = 2**50 + 7
    order = shuffled(np.arange(1000, dtype=np.uint64), n, 1, 1)
    assert len(np.unique(order)) == 1000
    assert order.max() < n
    assert order.max() > n * 0.98


def test_every_permutation_of_four_is_about_as_likely() -> None:
    index = np.arange(4, dtype=np.uint64)
    orders = [tuple(shuffled(index, 4, seed, e).tolist()) for seed in range(40) for e in range(60)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 24
    # 24 orders, 100 expected of each: chi-square with 23 degrees, 0.9999 quantile 57.
    assert sum((c - 100) ** 2 / 100 for c in counts) < 57


def test_raw_words_are_those_of_philox() -> None:
    # The first block of Philox4x64-10 for counter 0 and key 0 (Random123's known answers): numpy
    # adds one to the counter before its first block, so it starts one below.
    start = np.array([2**64 - 1] * 4, np.uint64)
    words = np.random.Philox(key=np.zeros(2, np.uint64), counter=start).random_raw(4)
    assert [hex(w) for w in words] == [
        "0x16554d9eca36314c",
        "0xdb20fe9d672d0fdc",
        "0xd7e772cee186176b",
        "0x7e68b68aec7ba23b",
    ]
    assert raw_words(0, 0, 1, 4).tolist() != raw_words(0, 0, 2, 4).tolist()
    np.testing.assert_array_equal(raw_words(3, 1, 5, 9)[:4], raw_words(3, 1, 5, 4))


def test_batches_stay_the_same_from_release_to_release() -> None:
    """Runs resume across releases only if these numbers never change."""
    random = Batches(numbered(1000), 4, 10, "random", 42)
    epoch = Batches(numbered(1000), 4, 10, "epoch", 42)
    assert random.offsets(3).tolist() == [154, 141, 130, 416]
    assert random.offsets(60).tolist() == [358, 721, 626, 198]
    assert epoch.offsets(3).tolist() == [90, 400, 50, 670]
    assert epoch.offsets(60).tolist() == [80, 390, 300, 760]


@given(n=st.integers(0, 300), context=st.integers(1, 40), batch=st.integers(1, 9))
def test_evaluation_covers_every_target_once(n: int, context: int, batch: int) -> None:
    seen: list[int] = []
    total = 0
    for tokens, targets, n_targets in evaluation_windows(numbered(n), context, batch):
        assert tokens.shape == targets.shape == (batch, context)
        assert tokens.dtype == targets.dtype == np.int32
        counted = targets != MASKED
        assert n_targets == counted.sum() > 0
        np.testing.assert_array_equal(targets[counted], tokens[counted] + 1)
        seen += targets[counted].tolist()
        total += n_targets
    assert seen == list(range(1, n))
    assert total == max(n - 1, 0)


@given(n=st.integers(1, 1000), context=st.integers(1, 100))
def test_count_windows(n: int, context: int) -> None:
    assert count_windows(n, context) == len(range(0, n - 1, context))
