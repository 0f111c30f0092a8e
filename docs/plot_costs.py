"""Draws docs/screens/costs.png: how a step's time grows, measured and predicted.

``python docs/plot_costs.py``

Takes about two minutes. The lines are what ``bptool train --plan`` predicts, from the measurement
in the user's cache (made first if there is none); the points are steps that are run here, the
fastest of several, in time of the threads.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from bptool.files import write_bytes
from bptool.models.presets import GPT2, GPT2Config
from bptool.ops.cores import usable_cores
from bptool.optim.adamw import AdamW
from bptool.training import cost
from bptool.training.calibrate import time_steps, training_step
from bptool.training.machine import choose_engine, processor_name
from bptool.training.measurements import Measurements
from bptool.training.split import choose_split
from bptool.training.workers import WorkerTeam

PICTURE = Path(__file__).resolve().parent / "screens" / "costs.png"
BASE = {"n_layer": 4, "n_embd": 256, "context": 128, "n_vocab": 256}
BATCH, HEAD = 8, 32
GROWN: dict[str, tuple[str, tuple[int, ...]]] = {
    "n_embd": ("width (n_embd)", (64, 128, 192, 256, 384, 512, 768)),
    "n_layer": ("depth (n_layer)", (1, 2, 4, 8, 16)),
    "context": ("context (tokens), 8 sequences", (32, 64, 128, 256, 512, 1024)),
    "n_vocab": ("vocabulary (tokens)", (64, 256, 1024, 4096, 16384, 50257)),
}
LINE, POINTS = "#1f4e8c", "#d1495b"


def model_of(**grown: int) -> GPT2:
    """The base model with one size changed."""
    sizes: dict[str, Any] = BASE | grown
    n_vocab = sizes.pop("n_vocab")
    config = GPT2Config(**sizes, n_head=sizes["n_embd"] // HEAD, bias=False)
    return GPT2(config, n_vocab)


def layout_of(model: GPT2, n_workers: int) -> cost.StepLayout:
    """How its step is cut."""
    split = choose_split("auto", n_workers, BATCH, 4 * model.layout.size)
    return cost.StepLayout(BATCH, BATCH, n_workers, split, model.context)


def draw() -> Figure:
    """A panel for each size that grows."""
    engine, n_workers, rule = choose_engine("auto"), usable_cores(), AdamW(AdamW.Config())
    known = Measurements(engine, n_workers, lambda what: print(f"measuring: {what}"))
    rates, update = known.rates(GPT2), known.update(rule)
    figure = Figure(figsize=(11, 3.6), dpi=110, layout="constrained")
    for axes, (key, (title, values)) in zip(figure.subplots(1, 4), GROWN.items(), strict=True):
        predicted, measured = [], []
        for value in values:
            model = model_of(**{key: value})
            layout = layout_of(model, n_workers)
            parts = cost.step_seconds(rates, update, model, rule, layout)
            predicted.append(sum(parts.values()))
            with WorkerTeam(n_workers) as team:
                measured.append(time_steps(training_step(model, engine, team, layout), layout))
            print(
                f"{key} {value}: {measured[-1] * 1e3:.1f} ms, {predicted[-1] * 1e3:.1f} predicted"
            )
        axes.plot(values, [1e3 * s for s in predicted], "-", color=LINE, label="--plan predicts")
        axes.plot(values, [1e3 * s for s in measured], "o", color=POINTS, markersize=4,
                  label="measured")  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel=title)
        axes.set_xticks(values, [f"{value:,}" for value in values], rotation=45, fontsize=8)
        axes.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("ms a step")
    figure.axes[0].legend(frameon=False, fontsize=8)
    base = "4 layers, width 256, heads of 32, context 128, batch 8, vocabulary 256"
    figure.suptitle(f"{base}; {n_workers} workers, {processor_name()}", fontsize=9)
    return figure


if __name__ == "__main__":
    data = BytesIO()
    draw().savefig(data, format="png", metadata={"Software": None})
    write_bytes(PICTURE, data.getvalue())
    print(f"wrote {PICTURE}")
