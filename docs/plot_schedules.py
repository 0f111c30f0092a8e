"""Draws docs/screens/schedules.png: every schedule over one run.

``python docs/plot_schedules.py``
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bptool.files import write_bytes
from bptool.registry import schedules

PICTURE = Path(__file__).resolve().parent / "screens" / "schedules.png"
N_STEPS = 1000
WARMUP = 50
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "cosine-restarts": [{}, {"n_cycles": 4, "cycle_growth": 1}],
    "inverse-sqrt": [{}, {"timescale_steps": 300}],
    "one-cycle": [{}, {"three_phases": True, "anneal": "linear"}],
    "polynomial": [{"power": 2}, {"power": 0.5}],
    "step": [{}, {"every_steps": 200, "gamma": 0.5}],
    "warmup-stable-decay": [{}, {"cooldown": "linear", "cooldown_steps": 400}],
}
"""What is drawn besides a schedule's defaults, the first line solid."""
COLOURS = ("#1f4e8c", "#d1495b")


def label(settings: dict[str, Any]) -> str:
    """The settings as a configuration has them."""
    written = (
        str(value).lower() if isinstance(value, bool) else value for value in settings.values()
    )
    return ", ".join(f"{key}: {value}" for key, value in zip(settings, written, strict=True))


def draw() -> Figure:
    """One panel a schedule, all on the same axes."""
    names = schedules.names()
    n_columns = 3
    figure = Figure(figsize=(9, 6.6), dpi=100, layout="constrained")
    grid = figure.subplots(-(-len(names) // n_columns), n_columns, sharex=True, sharey=True)
    for axes, name in zip(grid.flat, names, strict=False):
        kind = schedules.get(name)
        for settings, colour, line in zip(
            VARIANTS.get(name, [{}]), COLOURS, ("-", "--"), strict=False
        ):
            warmup = 0 if name == "one-cycle" else WARMUP
            schedule = kind(kind.Config(warmup_steps=warmup, **settings))
            steps = range(1, N_STEPS + 1)
            factors = [schedule.factor(step, N_STEPS) for step in steps]
            axes.plot(steps, factors, line, color=colour, linewidth=1.5,
                      label=label(settings) or "defaults")  # fmt: skip
        axes.set_title(name, fontsize=10)
        axes.set_ylim(-0.03, 1.42)
        axes.set_yticks([0, 0.5, 1])
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=7, loc="upper right")
    for axes in list(grid.flat)[len(names) :]:
        axes.set_visible(False)
    figure.supxlabel("step (optimizer updates)", fontsize=9)
    figure.supylabel("factor of optimizer.learning_rate", fontsize=9)
    return figure


if __name__ == "__main__":
    data = BytesIO()
    draw().savefig(data, format="png", metadata={"Software": None})
    write_bytes(PICTURE, data.getvalue())
    print(f"wrote {PICTURE}")
