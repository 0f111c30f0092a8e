"""``losses.png``: validation loss over steps with bands over seeds, and every seed's final loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from bptool.comparison.ranking import Row, spread
from bptool.comparison.trial import Outcome
from bptool.files import write_bytes

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31")
"""Told apart by colour-blind eyes too: Okabe and Ito 2008, the yellow, faint on white, as brown."""
LINES = ("-", "--", ":", "-.")
HEADROOM = 0.08


def plot_losses(rows: Sequence[Row], outcomes: Sequence[Outcome], path: Path, title: str) -> None:
    """Draw a study; raises OSError where the file cannot be written.

    Args:
        rows: in the order of the legend. outcomes: every trial that ended.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 5), dpi=120, layout="constrained")
    curves, finals = figure.subplots(1, 2, width_ratios=(5, 3))
    limits = _limits(outcomes)
    for index, row in enumerate(rows):
        group = [o for o in outcomes if o.trial.optimizer == row.optimizer]
        style = {
            "color": COLOURS[index % len(COLOURS)],
            "linestyle": LINES[index // len(COLOURS) % len(LINES)],
        }
        _draw_curve(curves, group, _label(row), style)
        _draw_finals(finals, len(rows) - 1 - index, row, group, style["color"], limits[1])
    curves.set_ylim(*limits)
    finals.xaxis.set_major_locator(MaxNLocator(5))
    curves.set_xlim(left=0)
    curves.xaxis.set_major_locator(MaxNLocator(integer=True))
    curves.set_xlabel("step (optimizer updates)")
    curves.set_ylabel("validation loss (nats per token)")
    n_seeds = max((row.n_trials for row in rows), default=0)
    band = "line: mean, band: ± 1 standard deviation" if n_seeds > 1 else "one seed"
    curves.set_title(f"{band} over {n_seeds} seeds" if n_seeds > 1 else band, fontsize=9)
    curves.legend(frameon=False, fontsize=8, loc="upper right")
    finals.set_yticks(range(len(rows)), [row.optimizer for row in reversed(rows)])
    finals.set_ylim(-0.6, len(rows) - 0.4)
    finals.set_xlabel("final validation loss (nats per token)")
    finals.set_title("each dot a seed, bar: mean" if n_seeds > 1 else "the last step", fontsize=9)
    for axes in (curves, finals):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    data = BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    write_bytes(path, data.getvalue())


def _label(row: Row) -> str:
    label = f"{row.optimizer}, rate {row.learning_rate:g}"
    return f"{label}: {row.n_diverged} of {row.n_trials} diverged" if row.n_diverged else label


def _draw_curve(axes: Any, group: list[Outcome], label: str, style: dict[str, Any]) -> None:
    """The mean at the steps that every seed reached, and a cross where it ends by divergence."""
    by_step: dict[int, list[float]] = {}
    for outcome in group:
        for point in outcome.curve:
            if math.isfinite(point.val_loss):
                by_step.setdefault(point.step, []).append(point.val_loss)
    shared = {step: spread(v) for step, v in sorted(by_step.items()) if len(v) == len(group)}
    steps, means = list(shared), [found.mean for found in shared.values()]
    axes.plot(steps, means, label=label, linewidth=1.6, **style)
    if len(group) > 1:
        low = [found.mean - found.deviation for found in shared.values()]
        high = [found.mean + found.deviation for found in shared.values()]
        axes.fill_between(steps, low, high, color=style["color"], alpha=0.18, linewidth=0)
    if steps and any(outcome.status == "diverged" for outcome in group):
        axes.plot(steps[-1], means[-1], "x", color=style["color"], markersize=9, clip_on=False)


def _draw_finals(
    axes: Any, y: int, row: Row, group: list[Outcome], colour: str, top: float
) -> None:
    """Dots for the seeds, a bar for their mean; in words, what has no place below ``top``."""
    losses = [o.final_loss for o in group if o.final_loss <= top]
    axes.plot(losses, [y] * len(losses), "o", color=colour, markersize=5, alpha=0.6)
    if row.final is not None and len(losses) == len(group) > 1:
        axes.plot([row.final.mean] * 2, [y - 0.25, y + 0.25], color=colour, linewidth=2)
    n_above = len(group) - len(losses) - row.n_diverged
    said = [f"{row.n_diverged} of {row.n_trials} diverged"] if row.n_diverged else []
    if n_above:
        said.append(f"{n_above} of {row.n_trials} end above {top:.3g}")
    axes.annotate(
        ", ".join(said),
        (0.02, y - 0.3 if losses else y),
        xycoords=axes.get_yaxis_transform(),
        va="center",
        fontsize=8,
        color="#444444",
    )


def _limits(outcomes: Sequence[Outcome]) -> tuple[float, float]:
    """From the lowest loss to the highest initial one: what climbs above leaves the frame."""
    losses = [p.val_loss for o in outcomes for p in o.curve if math.isfinite(p.val_loss)]
    starts = [o.curve[0].val_loss for o in outcomes if math.isfinite(o.curve[0].val_loss)]
    if not starts:
        return 0.0, 1.0
    low, high = min(losses), max(starts)
    margin = HEADROOM * max(high - low, 1e-3)
    return low - margin, high + margin
