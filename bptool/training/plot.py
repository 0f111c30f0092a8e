"""``loss.png``: training and validation loss against the step, and what else a lesson measured."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bptool.files import encoded, write_bytes
from bptool.training.drawing import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FAINT, TRAINED, JUDGED, AVERAGED = "#9db7d5", "#1f4e8c", "#d1495b", "#2a9d8f"
COLUMNS = 3
"""Of the small plots below, one a statistic."""
FLAT = 1e-6
"""Of its middle: less is no range of values."""


def plot_losses(
    records: list[dict[str, Any]], path: Path, title: str, unit: str = "nats per token"
) -> None:
    """Draw the records of ``metrics.jsonl``; raises OSError where the file cannot be written."""
    statistics = _statistics(records)
    n_rows = -(-len(statistics) // COLUMNS)
    figure = new_figure(figsize=(8, 4.5 + 1.9 * n_rows), dpi=120, layout="constrained")
    grid = figure.add_gridspec(1 + n_rows, COLUMNS, height_ratios=[4.5, *[1.9] * n_rows])
    axes = figure.add_subplot(grid[0, :])
    _draw_losses(axes, records)
    axes.set_xlabel("step (optimizer updates)")
    axes.set_ylabel(f"loss ({unit})")
    shown = encoded(title).decode("utf-8")  # of a folder whose name may be anything
    axes.set_title(shown, fontsize=10, parse_math=False)
    for place, (name, series) in enumerate(statistics.items()):
        small = figure.add_subplot(grid[1 + place // COLUMNS, place % COLUMNS])
        _draw_statistic(small, series)
        small.set_title(name, fontsize=8)
        small.tick_params(labelsize=7)
    data = BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    write_bytes(path, data.getvalue())


def _draw_losses(axes: Axes, records: list[dict[str, Any]]) -> None:
    steps = [r for r in records if r["kind"] == "step" and r["loss"] is not None]
    evaluations = [r for r in records if r["kind"] == "evaluation" and r["val_loss"] is not None]
    if steps:
        xs, losses = [r["step"] for r in steps], [r["loss"] for r in steps]
        axes.plot(xs, losses, color=FAINT, linewidth=0.6, label="training, each step")
        if len(losses) >= 20:
            axes.plot(xs, _smooth(losses), color=TRAINED, label="training, smoothed")
    if evaluations:
        xs = [r["step"] for r in evaluations]
        values = [r["val_loss"] for r in evaluations]
        axes.plot(xs, values, "o-", color=JUDGED, markersize=3, label="validation")
        judged = "val_loss"
        if all(r.get("average_val_loss") is not None for r in evaluations):
            judged = "average_val_loss"
            values = [r[judged] for r in evaluations]
            label = "validation, average weights"
            axes.plot(xs, values, "s-", color=AVERAGED, markersize=3, label=label)
        best = min(evaluations, key=lambda r: r[judged])
        axes.annotate(
            f"best {best[judged]:.4f} at step {best['step']:,}",
            (best["step"], best[judged]),
            textcoords="offset points",
            xytext=(-6, 18),
            ha="right",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "color": "#555555", "linewidth": 0.6},
        )
    axes.grid(alpha=0.25)
    if steps or evaluations:
        axes.legend(frameon=False, fontsize=8)


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
