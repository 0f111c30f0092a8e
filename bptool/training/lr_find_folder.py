"""The folder of a learning-rate sweep: ``lr-find.png`` and ``lr-find.json``, both or neither."""

from __future__ import annotations

import contextlib
import math
import os
from io import BytesIO
from pathlib import Path

from bptool.config.schema import RunConfig
from bptool.errors import RunError
from bptool.files import write_bytes, write_json
from bptool.training.drawing import new_figure
from bptool.training.lr_trials import Finding
from bptool.training.run_folder import FORMAT_VERSION, require_empty, writing

SUGGESTED, CONFIGURED, RAW, SMOOTH, TRIED = "#d1495b", "#777777", "#9db7d5", "#1f4e8c", "#b08900"
HEADROOM = 0.15
"""Share of the fall that the frame shows above the first loss; a loss that blew up leaves it."""


class SweepFolder:
    """Paths of a sweep's files. Makes nothing until :meth:`save`."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.plot = self.path / "lr-find.png"
        self.data = self.path / "lr-find.json"

    def check_free(self) -> None:
        """Raise a RunError where the folder holds anything or could not be made."""
        require_empty(self.path)
        above = next(folder for folder in (self.path, *self.path.parents) if folder.exists())
        if not above.is_dir():
            raise RunError(f"{above} is a file; choose another folder with --out")
        if not os.access(above, os.W_OK):
            raise RunError(f"{above} may not be written to; choose another folder with --out")

    def save(self, finding: Finding, config: RunConfig) -> None:
        """Write both files; raises a RunError, with nothing left behind, where that fails."""
        picture = draw(finding, config)
        record = {"format_version": FORMAT_VERSION, "kind": "lr-find", **finding.to_json()}
        made = [p for p in (self.path, *self.path.parents) if not p.exists()]
        with writing(self.path):
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                write_bytes(self.plot, picture)
                write_json(self.data, {**record, "config": config.model_dump(mode="json")})
            except BaseException:
                with contextlib.suppress(OSError):
                    self.plot.unlink(missing_ok=True)
                    self.data.unlink(missing_ok=True)
                    for folder in made:
                        folder.rmdir()
                raise


def draw(finding: Finding, config: RunConfig) -> bytes:
    """The loss over the rate, with the suggestion marked, as a PNG file."""
    figure = new_figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    sweep = finding.sweep
    rates, levels = sweep.rates, sweep.smoothed
    axes.set_xscale("log")
    axes.plot(rates, sweep.losses[1:], color=RAW, linewidth=0.7, label="sweep, next batch")
    axes.plot(rates, levels[1:], color=SMOOTH, label="sweep, smoothed")
    tried = sorted((r, loss) for r, loss in finding.losses.items() if math.isfinite(loss))
    axes.plot([r for r, _ in tried], [loss for _, loss in tried], "o-", color=TRIED, markersize=4,
              label=f"validation after {finding.n_steps:,} steps at a rate")  # fmt: skip
    own = config.optimizer.config.learning_rate
    if rates[0] <= own <= rates[-1]:
        axes.axvline(own, color=CONFIGURED, linewidth=0.9, linestyle=":",
                     label=f"as configured: {own:.2g}")  # fmt: skip
    if (found := finding.suggested) is not None:
        axes.axvline(found, color=SUGGESTED, linewidth=1.0, linestyle="--")
        axes.plot([found], [finding.losses[found]], "o", color=SUGGESTED,
                  label=f"suggested: {found:.2g}")  # fmt: skip
    lowest = min([*levels, *(loss for _, loss in tried)])
    fall = max(levels[0] - lowest, 0.05 * levels[0])
    axes.set_ylim(lowest - HEADROOM * fall, levels[0] + HEADROOM * fall)
    axes.set_xlabel("learning rate (optimizer.learning_rate, log scale)")
    axes.set_ylabel("loss (nats per token)")
    axes.set_title(f"{config.optimizer.name}: loss by learning rate", fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    data = BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    return data.getvalue()
