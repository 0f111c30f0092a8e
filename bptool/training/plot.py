"""``loss.png``: training and validation loss against the step."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

from bptool.files import write_bytes


def plot_losses(records: list[dict[str, Any]], path: Path, title: str) -> None:
    """Draw the records of ``metrics.jsonl``; raises OSError where the file cannot be written."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    steps = [r for r in records if r["kind"] == "step" and r["loss"] is not None]
    evaluations = [r for r in records if r["kind"] == "evaluation" and r["val_loss"] is not None]
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    if steps:
        xs, losses = [r["step"] for r in steps], [r["loss"] for r in steps]
        axes.plot(xs, losses, color="#9db7d5", linewidth=0.6, label="training, each step")
        if len(losses) >= 20:
            axes.plot(xs, _smooth(losses), color="#1f4e8c", label="training, smoothed")
    if evaluations:
        xs = [r["step"] for r in evaluations]
        values = [r["val_loss"] for r in evaluations]
        axes.plot(xs, values, "o-", color="#d1495b", markersize=3, label="validation")
        judged = "val_loss"
        if all(r.get("average_val_loss") is not None for r in evaluations):
            judged = "average_val_loss"
            values = [r[judged] for r in evaluations]
            label = "validation, average weights"
            axes.plot(xs, values, "s-", color="#2a9d8f", markersize=3, label=label)
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
    axes.set_xlabel("step (optimizer updates)")
    axes.set_ylabel("loss (nats per token)")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.25)
    if steps or evaluations:
        axes.legend(frameon=False, fontsize=8)
    data = BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    write_bytes(path, data.getvalue())


def _smooth(values: list[float], keep: float = 0.95) -> list[float]:
    """Exponential moving average, corrected for its start."""
    smoothed, average = [], 0.0
    for n, value in enumerate(values, 1):
        average = keep * average + (1 - keep) * value
        smoothed.append(average / (1 - keep**n))
    return smoothed
