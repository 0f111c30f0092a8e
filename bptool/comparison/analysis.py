"""From the records of a study to what its report says: pure functions, no files, no printing.

The tests of statistical inference are in ``inference.py``; here is what is compared, over which
trials. Losses are validation losses in nats per token.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from bptool.comparison.inference import Difference, Interval, compare, mean_interval
from bptool.comparison.plan import Plan, RateSource, Workload, choice_of, rate_source
from bptool.comparison.records import Point, Record, Timing, median_step_seconds
from bptool.comparison.spaces import at_edge
from bptool.config.study_section import RangeConfig

CONTAINS: dict[str, tuple[str, ...]] = {
    "momentum": ("sgd",),
    "nesterov": ("sgd",),
    "rmsprop": ("sgd", "momentum"),
    "adam": ("sgd", "momentum", "rmsprop"),
    "nadam": ("sgd", "nesterov", "rmsprop", "adam"),
    "adamw": ("sgd", "momentum", "rmsprop", "adam"),
    "nadamw": ("sgd", "nesterov", "rmsprop", "adam", "adamw"),
    "ademamix": ("adam", "adamw"),
}
"""A rule -> rules that it comes to, exactly or as nearly as one likes, for some of its settings:
Choi et al. 2019, "On Empirical Comparisons of Optimizers for Deep Learning", section 3; AdamW is
Adam where nothing is decayed, and AdEMAMix is AdamW where its slow mean counts 0."""


@dataclass(frozen=True)
class Tuning:
    """What an optimizer's search came to. Losses are means over tuning's seeds."""

    learning_rates: tuple[float, ...]
    """Of each candidate."""
    losses: tuple[float, ...]
    """Of each candidate; infinite where one of its runs diverged or failed."""
    n_runs: int
    n_diverged: int
    edges: Mapping[str, RangeConfig]
    """Chosen settings at the edge of their range, each with a wider range to search next."""
    sensitivity: float
    """How much is lost on average by a candidate beside the best one: the mean of
    min(loss, initial loss) - least loss (Wortsman et al. 2023, "Small-scale proxies for
    large-scale Transformer training instabilities", section 2.2, over the points drawn)."""
    best_of: tuple[float, ...]
    """Expected least loss of k candidates, k = 1, 2, ...; infinite where only diverged ones may
    be drawn."""


@dataclass(frozen=True)
class Row:
    """One optimizer on one workload."""

    workload: str
    optimizer: str
    settings: Mapping[str, Any]
    """With which it was run for the comparison; empty where every candidate diverged."""
    rate_source: RateSource
    """Where the learning rate among them comes from."""
    n_runs: int
    n_diverged: int
    n_failed: int
    final: Interval | None
    """Mean final loss and its own interval, not corrected for the family; None where any run
    diverged or failed: a mean over the rest would flatter."""
    best: Interval | None
    """The same of the lowest loss of each run."""
    difference: Difference | None
    """From the reference; None for itself, and where one of the two has no mean."""
    steps_to_target: float
    """Median over the runs; infinite for a run that misses."""
    tokens_to_target: float
    seconds_to_target: float
    """Steps times ``step_seconds``."""
    n_reached: int
    """Runs that reach the target."""
    step_seconds: float
    """Measured alone; NaN where it was not."""
    state_bytes: int
    tuning: Tuning | None
    runs: tuple[Record, ...]

    @property
    def n_missing(self) -> int:
        """Runs without a final loss."""
        return self.n_diverged + self.n_failed


@dataclass(frozen=True)
class Table:
    """A workload's optimizers, best first."""

    workload: str
    rows: tuple[Row, ...]
    reference: str
    target: float
    """Loss to reach; NaN where the reference has none to give."""
    margin: float
    """Difference in nats per token below which nothing matters; NaN without a reference."""
    bigram_loss: float
    """Of a bigram model on the same validation tokens; NaN where it was not counted."""
    notes: tuple[str, ...]
    """Settings at the edge of their range and under-tuned optimizers, in words."""

    @property
    def yardstick(self) -> Row | None:
        """The row that is held against the bigram model: the reference's, or else the best."""
        of_reference = [row for row in self.rows if row.optimizer == self.reference]
        whole = [row for row in [*of_reference, *self.rows] if row.final is not None]
        return whole[0] if whole else None

    def row(self, optimizer: str) -> Row:
        """The row of an optimizer."""
        return next(row for row in self.rows if row.optimizer == optimizer)


@dataclass(frozen=True)
class Profile:
    """Performance profile of an optimizer over the workloads (Dolan and More 2002)."""

    optimizer: str
    ratios: tuple[float, ...]
    """Its median steps to target over the least of any optimizer, workload by workload, sorted;
    the profile at tau is the share of these that are at most tau."""


@dataclass(frozen=True)
class Analysis:
    """All that a report says."""

    tables: tuple[Table, ...]
    profiles: tuple[Profile, ...]


def analyse(
    plan: Plan,
    records: Sequence[Record],
    timings: Iterable[Timing] = (),
    bigram_losses: Mapping[str, float] = MappingProxyType({}),
) -> Analysis:
    """Analyse the trials of a study that have ended, be it all of them or some.

    Args:
        bigram_losses: by workload, where they are known.
    """
    seconds = median_step_seconds(timings)
    tables = []
    for workload in plan.workloads:
        runs = {name: final_runs(plan, records, workload.name, name) for name in _names(plan)}
        searches = {name: _tuning(plan, records, workload.name, name) for name in _names(plan)}
        step_seconds = {name: seconds.get((workload.name, name), math.nan) for name in runs}
        bigram = bigram_losses.get(workload.name, math.nan)
        tables.append(_table(plan, workload, runs, searches, step_seconds, bigram))
    return Analysis(tuple(tables), _profiles(tables))


def final_runs(
    plan: Plan, records: Iterable[Record], workload: str, optimizer: str
) -> tuple[Record, ...]:
    """The runs of an optimizer's chosen candidate with the final seeds, by seed."""
    found = [r for r in records if (r.workload, r.optimizer) == (workload, optimizer)]
    by_name = {record.name: record for record in found}
    place = next(w for w in plan.workloads if w.name == workload)
    chosen = choice_of(plan, place, optimizer, by_name)
    final = [r for r in found if r.phase == "final" and r.number == chosen]
    return tuple(sorted(final, key=lambda r: r.seed))


def _table(
    plan: Plan,
    workload: Workload,
    runs: Mapping[str, tuple[Record, ...]],
    searches: Mapping[str, Tuning | None],
    step_seconds: Mapping[str, float],
    bigram_loss: float,
) -> Table:
    reference, target = plan.study.reference, workload.target
    of_reference = runs[reference]
    whole = bool(of_reference) and all(r.status == "completed" for r in of_reference)
    mean = statistics.fmean(r.final_loss for r in of_reference) if whole else math.nan
    if target is None:
        target = max(r.final_loss for r in of_reference) if whole else math.nan
    margin = plan.study.equivalence_margin * mean
    rows = []
    for name in plan.study.optimizers:
        search = searches[name]
        gone = search is not None and not runs[name] and search.n_runs == _n_tuning(plan)
        if runs[name] or gone:
            difference = None
            if name != reference and whole:
                difference = _difference(plan, runs[name], of_reference, margin)
            seconds = step_seconds[name]
            rows.append(_row(plan, workload, name, runs[name], search, difference, target, seconds))
    notes = [*_edge_notes(plan, rows), *_under_tuned(plan, rows, margin)]
    return Table(
        workload.name,
        tuple(sorted(rows, key=_order)),
        reference,
        target,
        margin,
        bigram_loss,
        tuple(notes),
    )


def _row(
    plan: Plan,
    workload: Workload,
    name: str,
    runs: tuple[Record, ...],
    search: Tuning | None,
    difference: Difference | None,
    target: float,
    step_seconds: float,
) -> Row:
    n_diverged = sum(r.status == "diverged" for r in runs)
    n_failed = sum(r.status == "failed" for r in runs)
    whole = bool(runs) and n_diverged + n_failed == 0
    alpha = plan.study.alpha
    steps = [steps_to(r.curve, target) for r in runs] or [math.inf]
    median = statistics.median(steps) if not math.isnan(target) else math.nan
    tokens = max((r.tokens_per_step for r in runs), default=0)
    return Row(
        workload=workload.name,
        optimizer=name,
        settings=runs[0].settings if runs else {},
        rate_source=rate_source(plan, workload, name),
        n_runs=len(runs),
        n_diverged=n_diverged,
        n_failed=n_failed,
        final=mean_interval([r.final_loss for r in runs], alpha) if whole else None,
        best=mean_interval([r.best_loss for r in runs], alpha) if whole else None,
        difference=difference,
        steps_to_target=median,
        tokens_to_target=median * tokens,
        seconds_to_target=median * step_seconds,
        n_reached=sum(map(math.isfinite, steps)),
        step_seconds=step_seconds,
        state_bytes=max((r.state_bytes for r in runs), default=0),
        tuning=search,
        runs=runs,
    )


def _order(row: Row) -> tuple[bool, int, float]:
    """Best mean first; those that diverged last, most often at the end."""
    return row.final is None, row.n_missing, row.final.mean if row.final else math.inf


def _difference(
    plan: Plan,
    runs: Sequence[Record],
    reference: Sequence[Record],
    margin: float,
    m: int | None = None,
) -> Difference | None:
    """The paired difference over the seeds that both have; None where a run of ``runs`` is lost."""
    by_seed = {r.seed: r.final_loss for r in reference}
    paired = [(r.final_loss, by_seed[r.seed]) for r in runs if r.seed in by_seed]
    if not paired or any(r.status != "completed" for r in runs):
        return None
    values, against = zip(*paired, strict=True)
    study = plan.study
    return compare(
        values,
        against,
        m=m or max(1, len(study.optimizers) - 1),
        alpha=study.alpha,
        margin=margin,
        test=study.test,
    )


def steps_to(curve: Sequence[Point], target: float) -> float:
    """Steps of the first evaluation whose loss is at most ``target``; infinite if there is none."""
    return next((float(p.step) for p in curve if p.val_loss <= target), math.inf)


def expected_best_of(losses: Sequence[float]) -> tuple[float, ...]:
    """Expected least loss of k candidates drawn from these without replacement, k = 1, 2, ...

    The unbiased U-statistic of Tang et al. 2020, "Showing Your Work Doesn't Always Work", section
    3: with losses in ascending order, the i-th of n is the least of C(n - i, k - 1) of the C(n, k)
    draws. A diverged candidate is infinite.
    """
    ordered, n = sorted(losses), len(losses)
    found = []
    for k in range(1, n + 1):
        weights = [math.comb(n - i, k - 1) / math.comb(n, k) for i in range(1, n + 1)]
        found.append(math.fsum(w * x for w, x in zip(weights, ordered, strict=True) if w > 0))
    return tuple(found)


def _tuning(plan: Plan, records: Sequence[Record], workload: str, optimizer: str) -> Tuning | None:
    if not plan.is_tuned:
        return None
    runs = [
        r for r in records if (r.phase, r.workload, r.optimizer) == ("tuning", workload, optimizer)
    ]
    if not runs:
        return None
    by_number: dict[int, list[Record]] = {}
    for run in sorted(runs, key=lambda r: (r.number, r.seed)):
        by_number.setdefault(run.number, []).append(run)
    losses = [statistics.fmean(r.final_loss for r in group) for group in by_number.values()]
    best = min(range(len(losses)), key=losses.__getitem__)
    groups = list(by_number.values())
    edges: Mapping[str, RangeConfig] = {}
    sensitivity = math.nan
    if math.isfinite(losses[best]):
        edges = at_edge(optimizer, plan.space(optimizer), groups[best][0].settings)
        starts = [r.curve[0].val_loss for r in runs if r.curve]
        start = statistics.fmean(starts)
        sensitivity = statistics.fmean(min(x, start) - losses[best] for x in losses)
    return Tuning(
        learning_rates=tuple(group[0].learning_rate for group in groups),
        losses=tuple(losses),
        n_runs=len(runs),
        n_diverged=sum(r.status == "diverged" for r in runs),
        edges=edges,
        sensitivity=sensitivity,
        best_of=expected_best_of(losses),
    )


def _n_tuning(plan: Plan) -> int:
    return plan.study.n_candidates * plan.study.tuning.seeds


def _names(plan: Plan) -> tuple[str, ...]:
    return plan.study.optimizers


def _edge_notes(plan: Plan, rows: Iterable[Row]) -> Iterable[str]:
    for row in rows:
        if row.tuning is None or not row.final or not row.tuning.edges:
            continue
        space, said = plan.space(row.optimizer), []
        for key, wider in row.tuning.edges.items():
            old = space[key]
            assert isinstance(old, RangeConfig)
            said.append(
                f"{key} {row.settings[key]:g} of {old.low:g} to {old.high:g} "
                f"(next: {wider.low:g} to {wider.high:g})"
            )
        yield f"{row.optimizer}: best at the edge of its search space: {'; '.join(said)}"


def _under_tuned(plan: Plan, rows: Sequence[Row], margin: float) -> Iterable[str]:
    """A sanity check: a rule that contains another must not lose to it, if both are tuned."""
    if not plan.is_tuned:
        return
    by_name = {row.optimizer: row for row in rows if row.final is not None}
    pairs = [(a, b) for a in by_name for b in CONTAINS.get(a, ()) if b in by_name]
    for general, special in pairs:
        found = _difference(plan, by_name[general].runs, by_name[special].runs, margin, len(pairs))
        if found is not None and found.verdict == "worse" and not found.equivalent:
            yield (
                f"{general} is under-tuned: it loses to {special}, which it contains, by "
                f"{found.interval.mean:.4f} ({found.interval.low:.4f} to "
                f"{found.interval.high:.4f}); give it more trials or another space"
            )


def _profiles(tables: Sequence[Table]) -> tuple[Profile, ...]:
    names = {row.optimizer: None for table in tables for row in table.rows}
    least = [min((row.steps_to_target for row in table.rows), default=math.inf) for table in tables]
    found = []
    for name in names:
        ratios = []
        for table, fastest in zip(tables, least, strict=True):
            steps = [r.steps_to_target for r in table.rows if r.optimizer == name]
            known = bool(steps) and math.isfinite(steps[0]) and fastest > 0
            ratios.append(steps[0] / fastest if known else math.inf)
        found.append(Profile(name, tuple(sorted(ratios))))
    return tuple(sorted(found, key=lambda p: p.ratios))
