"""A study's numbers as its tables show them, the same on the screen and on every page."""

from __future__ import annotations

import math
from collections.abc import Iterator

from bptool.comparison.analysis import Profile, Row, Table
from bptool.comparison.inference import Interval
from bptool.comparison.plan import Plan
from bptool.training.setup import format_bytes

MISSING = "-"
HUGE = 1e4
"""From here a loss is written with an exponent."""
LOSSES = ("optimizer", "final loss", "difference", "p", "verdict", "at rate", "detectable")
COSTS = ("optimizer", "reached", "steps", "tokens", "seconds", "ms/step", "state")
TUNING = ("optimizer", "runs", "diverged", "sensitivity")
TEXTS = ("optimizer", "verdict", "at rate")
"""Columns that are not numbers."""
TAUS = (1.0, 1.5, 2.0, 4.0)


def columns(table: Table, plan: Plan) -> dict[str, tuple[str, ...]]:
    """What is shown of a workload: the columns of each of its tables, by the table's title."""
    found: dict[str, tuple[str, ...]] = {
        "validation loss after the last step (nats per token)": LOSSES,
        f"cost, and time to a loss of {number(table.target)}": COSTS,
    }
    if plan.is_tuned:
        ks = [f"best of {k}" for k in tried(plan.study.n_candidates)]
        found["tuning"] = (*TUNING, *ks)
    return found


def tried(n_candidates: int) -> list[int]:
    """The numbers of candidates that tables show: 1, 2, 4, ... and all."""
    return sorted({min(2**i, n_candidates) for i in range(n_candidates.bit_length() + 1)})


def cells(row: Row, table: Table) -> dict[str, str]:
    """A row of a workload's tables, by column."""
    found, search = row.difference, row.tuning
    values = {
        "optimizer": row.optimizer,
        "final loss": final_loss(row),
        "difference": MISSING if found is None else interval(found.interval, signed=True),
        "p": MISSING if found is None else probability(found.p),
        "verdict": "reference" if row.optimizer == table.reference else verdict(row),
        "detectable": MISSING if found is None else number(found.detectable),
        "at rate": rate(row),
        "reached": f"{row.n_reached} of {row.n_runs}" if row.n_runs else MISSING,
        "steps": steps(row.steps_to_target),
        "tokens": steps(row.tokens_to_target),
        "seconds": seconds(row.seconds_to_target),
        "ms/step": number(1e3 * row.step_seconds, 2),
        "state": format_bytes(row.state_bytes),
    }
    if search is not None:
        values |= {
            "runs": f"{search.n_runs}",
            "diverged": f"{100 * search.n_diverged / search.n_runs:.0f} %",
            "sensitivity": number(search.sensitivity, 3),
        }
        values |= {f"best of {k}": number(x) for k, x in enumerate(search.best_of, 1)}
    return values


def profile_columns() -> tuple[str, ...]:
    """The columns of the performance profile's table."""
    return "optimizer", *(f"tau {tau:g}" for tau in TAUS)


def profile_cells(profile: Profile) -> dict[str, str]:
    """A row of it: on how many workloads the optimizer is within tau."""
    n = len(profile.ratios)
    counts = {tau: sum(ratio <= tau for ratio in profile.ratios) for tau in TAUS}
    return {
        "optimizer": profile.optimizer,
        **{f"tau {tau:g}": f"{found} of {n}" for tau, found in counts.items()},
    }


def remarks(table: Table) -> Iterator[str]:
    """What there is to say of a workload beside its tables."""
    row = table.yardstick
    if not math.isnan(table.bigram_loss) and row is not None and row.final is not None:
        gained = table.bigram_loss - row.final.mean
        where = f"{number(abs(gained))} nats per token {'below' if gained > 0 else 'above'} it"
        yield (
            f"A bigram model of the training text has a loss of {number(table.bigram_loss)} on the "
            f"same tokens; {row.optimizer} ends {where}."
        )
        if gained <= 0:
            yield (
                "So short a run learns little but which tokens follow which; with more steps the "
                "order may be another one."
            )
    yield from table.notes


def verdict(row: Row) -> str:
    """What a comparison comes to, in a word or two."""
    if row.difference is None:
        return MISSING
    word: str = row.difference.verdict
    return f"{word}, equivalent" if word != "identical" and row.difference.equivalent else word


def rate(row: Row) -> str:
    """``0.004, given``: the learning rate that a verdict holds at, and where it comes from."""
    if not row.settings:
        return f"{MISSING}, {row.rate_source}"
    return f"{row.settings['learning_rate']:.3g}, {row.rate_source}"


def final_loss(row: Row) -> str:
    """``2.3412 ± 0.0032``, or how many runs were lost."""
    if row.final is not None:
        return interval(row.final)
    if not row.n_runs:
        return "all candidates diverged"
    words = [
        f"{n} of {row.n_runs} {what}"
        for n, what in ((row.n_diverged, "diverged"), (row.n_failed, "failed"))
        if n
    ]
    return ", ".join(words)


def interval(found: Interval, signed: bool = False) -> str:
    """A mean with its interval, where it has one."""
    mean = number(found.mean, signed=signed)
    if math.isnan(found.low):
        return mean
    above, below = found.high - found.mean, found.mean - found.low
    if math.isclose(above, below, rel_tol=1e-6, abs_tol=1e-12):
        return f"{mean} ± {number(above)}"
    return f"{mean} [{number(found.low, signed=signed)}, {number(found.high, signed=signed)}]"


def number(value: float, digits: int = 4, signed: bool = False) -> str:
    """A loss or the like; a dash for NaN."""
    if math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    sign = "+" if signed else ""
    return f"{value:{sign}.3e}" if abs(value) >= HUGE else f"{value:{sign}.{digits}f}"


def probability(p: float) -> str:
    """A p-value to two digits."""
    if math.isnan(p):
        return MISSING
    return "<0.0001" if p < 1e-4 else f"{p:.2g}"


def steps(value: float) -> str:
    """Steps or tokens to the target."""
    if math.isnan(value):
        return MISSING
    return "never" if math.isinf(value) else f"{value:,.0f}"


def seconds(value: float) -> str:
    """Seconds to the target."""
    if math.isnan(value):
        return MISSING
    return "never" if math.isinf(value) else f"{value:.3g}"
