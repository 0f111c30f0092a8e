"""A study's numbers and terms in words, the same on the screen and on the page."""

from __future__ import annotations

import math
from collections.abc import Iterator

from bptool.comparison.analysis import Row, Table
from bptool.comparison.inference import POWER, Interval
from bptool.comparison.plan import Plan
from bptool.config.study_section import RECOMMENDED_SEEDS
from bptool.training.setup import format_bytes

MISSING = "-"
HUGE = 1e4
"""From here a loss is written with an exponent."""
HEADINGS = (
    "optimizer",
    "rate",
    "final loss",
    "difference",
    "p",
    "verdict",
    "detectable",
    "steps",
    "tokens",
    "seconds",
    "ms/step",
    "state",
    "tuning",
)


def headings() -> tuple[str, ...]:
    """The columns of a table."""
    return HEADINGS


def cells(row: Row, table: Table) -> dict[str, str]:
    """A row of a table by its columns."""
    found = row.difference
    is_reference = row.optimizer == table.reference
    values = (
        row.optimizer,
        f"{row.settings['learning_rate']:.3g}" if row.settings else MISSING,
        final_loss(row),
        MISSING if found is None else interval(found.interval, signed=True),
        MISSING if found is None else probability(found.p),
        "reference" if is_reference else verdict(row),
        MISSING if found is None else number(found.detectable),
        steps(row.steps_to_target),
        steps(row.tokens_to_target),
        seconds(row.seconds_to_target),
        number(1e3 * row.step_seconds, 2),
        format_bytes(row.state_bytes),
        tuning(row),
    )
    return dict(zip(HEADINGS, values, strict=True))


def rules(plan: Plan) -> Iterator[str]:
    """On what terms the optimizers were compared."""
    study = plan.study
    if plan.is_tuned:
        yield (
            f"Ruleset tuned: {study.n_candidates} settings tried of each optimizer on each "
            f"workload, with {_counted(study.tuning.seeds, 'seed')} from "
            f"{study.tuning.first_seed} on; the best one ran again with the final seeds."
        )
    else:
        yield "Ruleset defaults: each optimizer with fixed settings, none tuned."
    last = study.final.first_seed + study.final.seeds - 1
    yield (
        f"{_counted(study.final.seeds, 'final seed')} ({study.final.first_seed} to {last}): within "
        "a seed the same initial weights, batches and dropout for every optimizer."
    )
    if study.final.seeds < RECOMMENDED_SEEDS:
        yield f"Fewer than {RECOMMENDED_SEEDS} final seeds: only large differences can show."
    for workload in plan.workloads:
        training = workload.config.training
        yield (
            f"{workload.name}: {training.steps:,} steps of {training.batch_size} sequences, "
            f"schedule {workload.config.schedule.name} of that length."
        )


def explanations(plan: Plan) -> Iterator[str]:
    """How the columns and plots are to be read."""
    study = plan.study
    share, level = 100 * study.equivalence_margin, 100 * (1 - study.alpha)
    m = len(study.optimizers) - 1
    yield (
        f"final loss: validation loss in nats per token after the last step, mean over the final "
        f"seeds with its own {level:g} % t interval. A run that diverged stands as 'n of N', "
        "replaces the interval, and ranks last."
    )
    yield (
        f"difference: from {study.reference}, paired by seed. Intervals hold together for the "
        f"{_counted(m, 'comparison')} of a table with {level:g} % confidence, and p is corrected "
        f"for them (single-step Sidak; {study.test})."
    )
    yield (
        "verdict: tie where the interval includes 0; 'equivalent' where all of it lies within the "
        f"equivalence margin, {share:g} % of the reference's mean loss, so that the difference, "
        "real or not, is too small to matter; identical where every seed gives the same loss."
    )
    yield (
        "detectable: the smallest true difference that the study would have found with "
        f"probability {POWER:g}, given the spread it met. A tie says nothing about smaller ones."
    )
    yield (
        "steps, tokens and seconds: until the target, which is the loss "
        f"{'given, or that ' if any(w.target for w in plan.workloads) else 'that '}"
        f"{study.reference} reaches with every final seed. Steps are those of the first evaluation "
        "at or below it, the median over the seeds; a run that misses it counts as infinite. "
        "Seconds are steps times a step's time, measured with nothing else of the study running."
    )
    if plan.is_tuned:
        yield (
            "tuning: settings chosen by the same validation text that the final runs are judged "
            "by, so that losses of all optimizers are a little optimistic. The expected best of k "
            "is the unbiased U-statistic of Tang et al. 2020. The mean loss of rates in the "
            "sensitivity plot is how much a candidate loses to the best one on average, "
            "min(loss, initial loss) - least loss (Wortsman et al. 2023)."
        )


def verdict(row: Row) -> str:
    """What a comparison comes to, in a word or two."""
    if row.difference is None:
        return MISSING
    word: str = row.difference.verdict
    return f"{word}, equivalent" if word != "identical" and row.difference.equivalent else word


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


def tuning(row: Row) -> str:
    """How many tuning runs there were, and how many diverged."""
    if row.tuning is None:
        return MISSING
    lost = row.tuning.n_diverged
    share = f", {100 * lost / row.tuning.n_runs:.0f} % diverged" if lost else ""
    return f"{row.tuning.n_runs} runs{share}"


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
