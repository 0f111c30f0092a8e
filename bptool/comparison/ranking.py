"""Outcomes of one optimizer over its seeds, and the order of optimizers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bptool.comparison.trial import Outcome


@dataclass(frozen=True)
class Spread:
    """A mean over seeds and the sample standard deviation (n - 1); NaN for a single seed."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class Row:
    """One optimizer. Losses are validation losses in nats per token."""

    optimizer: str
    learning_rate: float
    n_trials: int
    n_diverged: int
    final: Spread | None
    """After the last step; None where any trial diverged: a mean over the rest would flatter."""
    best: Spread | None
    """Lowest of any evaluation, a mean over seeds; None where any trial diverged."""
    step_seconds: float
    """Median of the trials' medians."""
    state_bytes: int


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation of at least one value."""
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return Spread(statistics.fmean(values), deviation)


def rank(outcomes: Sequence[Outcome]) -> list[Row]:
    """One row an optimizer, by mean final loss; those that diverged last, most often at the end.

    Equal ones stay in the order in which they were first run.
    """
    by_name: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_name.setdefault(outcome.trial.optimizer, []).append(outcome)
    rows = [_row(name, group) for name, group in by_name.items()]
    return sorted(rows, key=lambda row: (row.n_diverged, row.final.mean if row.final else math.inf))


def _row(name: str, group: list[Outcome]) -> Row:
    n_diverged = sum(outcome.status == "diverged" for outcome in group)
    whole = n_diverged == 0
    times = [o.step_seconds for o in group if math.isfinite(o.step_seconds)]
    return Row(
        optimizer=name,
        learning_rate=group[0].trial.learning_rate,
        n_trials=len(group),
        n_diverged=n_diverged,
        final=spread([o.final_loss for o in group]) if whole else None,
        best=spread([o.best_loss for o in group]) if whole else None,
        step_seconds=statistics.median(times) if times else math.nan,
        state_bytes=group[0].state_bytes,
    )
