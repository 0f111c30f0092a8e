"""``loss.png``: training and validation loss against the step, and what else a lesson measured.

A panel has one unit: where weights are judged by a reward, that has a panel of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bptool.files import encoded, write_bytes
from bptool.training.drawing import new_figure
from bptool.training.lessons.base import Lesson

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FAINT, TRAINED, JUDGED, AVERAGED = "#9db7d5", "#1f4e8c", "#d1495b", "#2a9d8f"
COLUMNS = 3
"""Of the small plots below, one a statistic."""
FLAT = 1e-6
"""Of its middle: less is no range of values."""
LOW, HIGH = " at least", " at most"
"""What the names of an interval's ends add to that of the statistic."""


def plot_losses(
    records: list[dict[str, Any]], path: Path, title: str, of: Lesson | type[Lesson] = Lesson
) -> None:
    """Draw the records of ``metrics.jsonl``, in the units ``of`` a lesson; raises OSError where the
    file cannot be written."""
    statistics = _statistics(records)
    shown = [name for name in statistics if not _is_end(name, statistics)]
    n_large, n_rows = 1 + of.maximised, -(-len(shown) // COLUMNS)
    large = 3.2 if of.maximised else 4.5
    heights = [large] * n_large + [1.9] * n_rows
    figure = new_figure(figsize=(8, sum(heights)), dpi=120, layout="constrained")
    grid = figure.add_gridspec(len(heights), COLUMNS, height_ratios=heights)
    name = encoded(title).decode("utf-8")  # of a folder whose name may be anything
    figure.suptitle(name, fontsize=10, parse_math=False)
    axes = figure.add_subplot(grid[0, :])
    _draw_training(axes, records)
    if of.maximised:
        axes.set_ylabel("training loss")
        _finish(axes)
        axes = figure.add_subplot(grid[1, :], sharex=axes)
    axes.set_ylabel(of.judged_as if of.maximised else f"loss ({of.loss_unit})")
    _draw_evaluations(axes, records, of.maximised)
    axes.set_xlabel("step (optimizer updates)")
    _finish(axes)
    for place, name in enumerate(shown):
        small = figure.add_subplot(grid[n_large + place // COLUMNS, place % COLUMNS])
        _draw_interval(small, statistics, name)
        _draw_statistic(small, statistics[name])
        small.set_title(name, fontsize=8)
        small.tick_params(labelsize=7)
    data = BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    write_bytes(path, data.getvalue())


def _draw_training(axes: Axes, records: list[dict[str, Any]]) -> None:
    steps = [r for r in records if r["kind"] == "step" and r["loss"] is not None]
    if steps:
        xs, losses = [r["step"] for r in steps], [r["loss"] for r in steps]
        axes.plot(xs, losses, color=FAINT, linewidth=0.6, label="training, each step")
        if len(losses) >= 20:
            axes.plot(xs, _smooth(losses), color=TRAINED, label="training, smoothed")


def _draw_evaluations(axes: Axes, records: list[dict[str, Any]], maximised: bool) -> None:
    evaluations = [r for r in records if r["kind"] == "evaluation" and r["val_loss"] is not None]
    if not evaluations:
        return

    def shown(loss: float) -> float:
        return 0.0 - loss if maximised else loss

    xs = [r["step"] for r in evaluations]
    curves = [("val_loss", "o-", JUDGED, "held out" if maximised else "validation")]
    if all(r.get("average_val_loss") is not None for r in evaluations):
        curves.append(("average_val_loss", "s-", AVERAGED, "validation, average weights"))
    for key, marks, color, label in curves:
        values = [shown(r[key]) for r in evaluations]
        axes.plot(xs, values, marks, color=color, markersize=3, label=label)
    key = curves[-1][0]
    best = min(evaluations, key=lambda r: r[key])
    place, value = best["step"], shown(best[key])
    axes.plot(
        [place],
        [value],
        "o",
        color="#222222",
        markersize=8,
        fillstyle="none",
        label=f"best, {value:.4f} at step {place:,}",
    )


def _finish(axes: Axes) -> None:
    """A grid, and the legend above the panel, where it covers no curve."""
    axes.grid(alpha=0.25)
    if axes.lines:
        place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0)}
        axes.legend(frameon=False, fontsize=8, ncols=4, borderaxespad=0.2, **place)


Series = dict[str, list[tuple[int, float]]]
"""Steps and values by kind of record."""


def _statistics(records: list[dict[str, Any]]) -> dict[str, Series]:
    """What was measured besides losses, by name."""
    found: dict[str, Series] = {}
    for record in records:
        for name, value in record.get("statistics", {}).items():
            if value is not None:
                series = found.setdefault(name, {"step": [], "evaluation": []})
                series[record["kind"]].append((record["step"], value))
    return found


def _is_end(name: str, statistics: dict[str, Series]) -> bool:
    """Whether a statistic is one end of another's interval."""
    return any(name.endswith(end) and name.removesuffix(end) in statistics for end in (LOW, HIGH))


def _draw_interval(axes: Axes, statistics: dict[str, Series], name: str) -> None:
    """The 95 % interval of a share as a band, and what guessing gives."""
    ends = [statistics[name + end]["evaluation"] for end in (LOW, HIGH) if name + end in statistics]
    if len(ends) == 2:
        xs: Sequence[int] = [step for step, _ in ends[0]]
        low, high = ([value for _, value in end] for end in ends)
        axes.fill_between(xs, low, high, color=JUDGED, alpha=0.15, linewidth=0)
        axes.axhline(0.5, color="#555555", linewidth=0.8, linestyle=":")


def _draw_statistic(axes: Axes, series: Series) -> None:
    if series["step"]:
        xs, values = zip(*series["step"], strict=True)
        axes.plot(xs, values, color=FAINT, linewidth=0.5)
        axes.plot(xs, _smooth(list(values)), color=TRAINED, linewidth=1)
    if series["evaluation"]:
        xs, values = zip(*series["evaluation"], strict=True)
        axes.plot(xs, values, "o-", color=JUDGED, markersize=2.5, linewidth=0.8)
    low, high = axes.get_ylim()
    middle = (low + high) / 2
    if high - low < FLAT * abs(middle):  # rounding of the smoothed values is no change
        axes.set_ylim(*sorted((0.95 * middle, 1.05 * middle)))
    axes.grid(alpha=0.25)


def _smooth(values: list[float], keep: float = 0.95) -> list[float]:
    """Exponential moving average, corrected for its start."""
    smoothed, average = [], 0.0
    for n, value in enumerate(values, 1):
        average = keep * average + (1 - keep) * value
        smoothed.append(average / (1 - keep**n))
    return smoothed
