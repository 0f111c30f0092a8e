"""The plots of a study, as PNG files: one kind a function, each from the analysis alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter

from bptool.comparison.analysis import Analysis, Row, Table
from bptool.comparison.inference import mean_interval
from bptool.files import write_bytes

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31")
"""Told apart by colour-blind eyes too: Okabe and Ito 2008, the yellow, faint on white, as brown."""
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GREY = "#666666"
DPI = 120
HEADROOM = 0.08
LARGEST_RATIO = 4.0
"""Where the performance profile ends (AlgoPerf 2023 ends its own there too)."""
CROWDED = 5.0
"""Losses more than this many times the span of the better half away leave the frame."""

Styles = dict[str, dict[str, Any]]


def plot_all(analysis: Analysis, folder: Path) -> dict[str, Path]:
    """Draw every plot that the study has data for; returns their files by title.

    Raises:
        OSError: a file cannot be written.
    """
    mpl.use("Agg")
    mpl.rcdefaults()  # not what a file in the working folder says
    files: dict[str, Path] = {}
    for title, name, figure in figures(analysis, styles_of(analysis)):
        path = folder / f"{name}.png"
        write_bytes(path, _png(figure))
        files[title] = path
    return files


def styles_of(analysis: Analysis) -> Styles:
    """A colour, a kind of line and a marker for each optimizer, the same in every plot."""
    names = sorted({row.optimizer for table in analysis.tables for row in table.rows})
    return {
        name: {
            "color": COLOURS[i % len(COLOURS)],
            "linestyle": LINES[i // len(COLOURS) % len(LINES)],
            "marker": MARKERS[i % len(MARKERS)],
        }
        for i, name in enumerate(names)
    }


def _png(figure: Figure) -> bytes:
    """With every shade: a palette would give thin lines another colour than the legend's."""
    data = BytesIO()
    figure.savefig(data, format="png", dpi=DPI, pil_kwargs={"optimize": True})
    return data.getvalue()


def figures(analysis: Analysis, styles: Styles) -> Iterator[tuple[str, str, Figure]]:
    """Title, file's name and figure of each plot."""
    kinds: tuple[tuple[str, str, Callable[[Table, Styles], Figure | None]], ...] = (
        ("Validation loss", "curves", curves),
        ("Difference from the reference", "differences", differences),
        ("Time to target", "target", time_to_target),
        ("Learning-rate sensitivity", "sensitivity", sensitivity),
        ("Expected best of k candidates", "tuning", best_of),
    )
    for table in analysis.tables:
        for title, name, draw in kinds:
            figure = draw(table, styles)
            if figure is not None:
                yield f"{title}: {table.workload}", f"{name}-{table.workload}", figure
    if len(analysis.tables) > 1:
        figure = profile(analysis, styles)
        yield "Performance profile over the workloads", "profile", figure


def _new(title: str, width: float = 9.0, height: float = 4.5) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    _dress(axes)
    axes.set_title(title, fontsize=11, loc="left", wrap=True)
    return figure, axes


def _dress(axes: Any) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(axes: Any) -> None:
    """Beside the axes, where it covers nothing, and under the title, however long that is."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=8)


def curves(table: Table, styles: Styles) -> Figure | None:
    """Mean validation loss over steps, with the interval of the mean over seeds as a band."""
    rows = [row for row in table.rows if row.runs]
    if not rows:
        return None
    n_seeds = max(row.n_runs for row in rows)
    band = f"mean of {n_seeds} seeds and its 95 % interval" if n_seeds > 1 else "one seed"
    figure, axes = _new(f"{table.workload}: validation loss ({band})")
    for row in rows:
        _draw_curve(axes, row, styles[row.optimizer])
    low, high = _limits(rows)
    levels = ((table.target, "target", (6, 4)), (table.bigram_loss, "bigram model", (1, 2)))
    for level, what, dashes in levels:
        if low < level < high:
            label = f"{what}, {level:.4f}"
            axes.axhline(level, color=GREY, linewidth=1.0, linestyle=(0, dashes), label=label)
    axes.set_ylim(low, high)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step (optimizer updates)")
    axes.set_ylabel("validation loss (nats per token)")
    _legend(axes)
    return figure


def _draw_curve(axes: Any, row: Row, style: dict[str, Any]) -> None:
    """At the steps that every seed reached; a cross where that ends by divergence."""
    by_step: dict[int, list[float]] = {}
    for run in row.runs:
        for point in run.curve:
            if math.isfinite(point.val_loss):
                by_step.setdefault(point.step, []).append(point.val_loss)
    shared = {
        step: mean_interval(values, 0.05)
        for step, values in sorted(by_step.items())
        if len(values) == row.n_runs
    }
    line = {key: style[key] for key in ("color", "linestyle")}
    steps, means = list(shared), [found.mean for found in shared.values()]
    label = row.optimizer
    if row.n_diverged:
        label += f" ({row.n_diverged} of {row.n_runs} diverged)"
    axes.plot(steps, means, label=label, linewidth=1.6, **line)
    if row.n_runs > 1:
        low = [found.low for found in shared.values()]
        high = [found.high for found in shared.values()]
        axes.fill_between(steps, low, high, color=style["color"], alpha=0.18, linewidth=0)
    if steps and row.n_diverged:
        axes.plot(steps[-1], means[-1], "x", color=style["color"], markersize=9)


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    """From the lowest loss to the highest after the first fall, or to the initial one where nothing
    falls: the steep beginning, and what climbs, leave the frame."""
    points = [p for row in rows for run in row.runs for p in run.curve]
    losses = [p.val_loss for p in points if math.isfinite(p.val_loss)]
    starts = [p.val_loss for p in points if p.step == 0 and math.isfinite(p.val_loss)]
    if not starts:
        return 0.0, 1.0
    firsts = [run.curve[1].val_loss for row in rows for run in row.runs if len(run.curve) > 1]
    fallen = [loss for loss in firsts if loss < max(starts)]
    low, high = min(losses), max(fallen, default=max(starts))
    margin = HEADROOM * max(high - low, 1e-3)
    return low - margin, high + margin


def differences(table: Table, styles: Styles) -> Figure | None:
    """Each optimizer's paired difference from the reference, with its simultaneous interval."""
    rows = [r for r in table.rows if r.difference is not None and r.difference.n > 1]
    if not rows:
        return None
    figure, axes = _new(
        f"{table.workload}: difference from {table.reference} "
        "(paired by seed; simultaneous 95 % intervals)",
        height=2.8 + 0.4 * len(rows),
    )
    axes.axvspan(-table.margin, table.margin, color="#000000", alpha=0.07, linewidth=0)
    axes.axvline(0.0, color=GREY, linewidth=0.8)
    for y, row in enumerate(reversed(rows)):
        found = row.difference
        if found is None:
            continue
        colour = styles[row.optimizer]["color"]
        span = found.interval
        if math.isfinite(span.low):
            axes.plot([span.low, span.high], [y, y], color=colour, linewidth=2)
        axes.plot(span.mean, y, "o", color=colour)
    axes.set_yticks(range(len(rows)), [f"{r.optimizer}: {_verdict(r)}" for r in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(
        f"final validation loss less that of {table.reference} (nats per token); "
        "shaded: the equivalence margin",
        fontsize=9,
    )
    return figure


def _verdict(row: Row) -> str:
    return row.difference.verdict if row.difference else ""


def time_to_target(table: Table, styles: Styles) -> Figure | None:
    """Steps, and seconds, to the target: every run a dot, the median a bar, misses at the right."""
    rows = list(reversed([row for row in table.rows if row.runs]))
    if not math.isfinite(table.target) or not rows:
        return None
    figure = Figure(figsize=(9.5, 3.0 + 0.36 * len(rows)), layout="constrained")
    figure.suptitle(
        f"{table.workload}: time to a validation loss of {table.target:.4f} nats per token "
        "(dots: runs, bars: medians)",
        fontsize=11,
    )
    panels = figure.subplots(1, 2, sharey=True)
    labels = ("steps (optimizer updates)", "seconds (steps x a step's time, measured alone)")
    from bptool.comparison.analysis import steps_to

    for axes, label, timed in zip(panels, labels, (False, True), strict=True):
        _dress(axes)
        values = [
            [
                steps_to(run.curve, table.target) * (row.step_seconds if timed else 1.0)
                for run in row.runs
            ]
            for row in rows
        ]
        reached = [x for group in values for x in group if math.isfinite(x)]
        miss = 1.35 * (max(reached, default=1.0) or 1.0)
        for y, (row, group) in enumerate(zip(rows, values, strict=True)):
            colour = styles[row.optimizer]["color"]
            if any(math.isnan(x) for x in group):
                continue
            hits = [x for x in group if math.isfinite(x)]
            axes.plot(hits, [y] * len(hits), "o", color=colour, markersize=5, alpha=0.5)
            n_missed = len(group) - len(hits)
            if n_missed:
                axes.annotate(
                    f"{n_missed} of {len(group)} miss", (miss, y), ha="right", va="center",
                    fontsize=8, color=GREY,
                )  # fmt: skip
            median = statistics.median(group)
            if math.isfinite(median):
                axes.plot([median] * 2, [y - 0.3, y + 0.3], color=colour, linewidth=2.5)
        axes.set_xlim(0, miss * 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlabel(label)
    panels[0].set_yticks(range(len(rows)), [row.optimizer for row in rows])
    panels[0].set_ylim(-0.6, len(rows) - 0.4)
    return figure


def sensitivity(table: Table, styles: Styles) -> Figure | None:
    """Tuning's losses over learning rates: what a rate that is not the best one costs."""
    rows = [row for row in table.rows if row.tuning is not None]
    if not rows:
        return None
    finite = sorted(x for r in rows if r.tuning for x in r.tuning.losses if math.isfinite(x))
    top = _top(finite)
    leaves = any(r.tuning and max(r.tuning.losses) > top for r in rows)
    crosses = " (crosses: diverged, or above the frame)" if leaves else ""
    figure, axes = _new(f"{table.workload}: loss of each candidate over its learning rate{crosses}")
    for row in rows:
        if row.tuning is None:
            continue
        style = {**styles[row.optimizer], "markersize": 5, "linewidth": 1.0}
        points = sorted(zip(row.tuning.learning_rates, row.tuning.losses, strict=True))
        label = f"{row.optimizer}, sensitivity {row.tuning.sensitivity:.3f}"
        inside = [(x, min(y, top)) for x, y in points]
        axes.plot(*zip(*inside, strict=True), label=label, **style)
        above = [x for x, y in points if y > top]
        axes.plot(above, [top] * len(above), "x", color=style["color"], markersize=9)
    if leaves:
        axes.axhline(top, color=GREY, linewidth=0.6)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate (other settings vary along)")
    axes.set_ylabel("validation loss in tuning (nats per token)")
    _legend(axes)
    return figure


def _top(losses: Sequence[float]) -> float:
    """The upper end of a frame that shows the better half well."""
    if not losses:
        return 1.0
    half = losses[len(losses) // 2]
    return min(losses[-1], losses[0] + CROWDED * max(half - losses[0], 1e-3)) * (1 + 1e-9)


def best_of(table: Table, styles: Styles) -> Figure | None:
    """Expected least loss over how many candidates are tried: what tuning buys."""
    rows = [row for row in table.rows if row.tuning is not None]
    shown = sorted(x for r in rows if r.tuning for x in r.tuning.best_of if math.isfinite(x))
    if not shown:
        return None
    figure, axes = _new(f"{table.workload}: expected best of k candidates (unbiased estimator)")
    for row in rows:
        if row.tuning is None:
            continue
        points = [(k, x) for k, x in enumerate(row.tuning.best_of, 1) if math.isfinite(x)]
        if points:
            style = {**styles[row.optimizer], "markersize": 4, "linewidth": 1.3}
            axes.plot(*zip(*points, strict=True), label=row.optimizer, **style)
    low, top = shown[0], _top(shown)
    axes.set_ylim(low - HEADROOM * max(top - low, 1e-3), top + HEADROOM * max(top - low, 1e-3))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("k (candidates tried)")
    axes.set_ylabel("expected least validation loss (nats per token)")
    _legend(axes)
    return figure


def profile(analysis: Analysis, styles: Styles) -> Figure:
    """Share of workloads on which an optimizer needs at most tau times the fewest steps."""
    n = len(analysis.tables)
    figure, axes = _new(f"performance profile over {n} workloads (Dolan and Moré 2002)")
    for one in analysis.profiles:
        line = {key: styles[one.optimizer][key] for key in ("color", "linestyle")}
        finite = [r for r in one.ratios if r <= LARGEST_RATIO]
        xs = [1.0, *finite, LARGEST_RATIO]
        ys = [0.0, *((i + 1) / n for i in range(len(finite))), len(finite) / n]
        axes.step(xs, ys, where="post", label=one.optimizer, linewidth=1.6, **line)
    axes.set_xscale("log")
    axes.set_xlim(0.98, LARGEST_RATIO)
    axes.set_xticks([1, 1.5, 2, 3, 4])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(-0.03, 1.05)
    axes.set_xlabel("tau (median steps to target over the fewest of any optimizer)")
    axes.set_ylabel("share of workloads within tau")
    _legend(axes)
    return figure
