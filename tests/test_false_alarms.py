"""The false-alarm rates and the power of the analysis, over the stored losses of real runs."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.false_alarms import EFFECT, NAMES, Draw, independent, paired, rate, read

N_POWER = 300
"""Studies by which power is measured; the rates take 2,000."""


@pytest.mark.parametrize("draw", [independent, paired])
@pytest.mark.parametrize("n_groups", [2, len(NAMES)], ids=["single", "family"])
def test_false_alarms_are_as_rare_as_said(draw: Draw, n_groups: int) -> None:
    assert 0.035 <= rate(read(), draw, n_groups) <= 0.065


@pytest.mark.parametrize(
    ("draw", "n_groups", "n_seeds"),
    [(paired, 2, 5), (paired, len(NAMES), 5), (independent, 2, 5), (independent, len(NAMES), 8)],
    ids=["paired", "paired family", "independent", "independent family"],
)
def test_two_percent_of_the_loss_is_found(draw: Draw, n_groups: int, n_seeds: int) -> None:
    assert rate(read(), draw, n_groups, EFFECT, N_POWER, n_seeds=n_seeds) >= 0.8


def test_the_stored_runs_are_enough_and_differ() -> None:
    losses = np.array(list(read().values()))
    assert losses.shape[1] >= 60
    assert len(np.unique(losses[0])) == losses.shape[1]
    assert (losses[1:] != losses[0]).all()  # another order of summation is never the same bits
