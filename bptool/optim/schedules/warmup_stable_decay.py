"""Warm-up, stable, decay: the full rate for most of the run, then a short way down (a trapezoid).

    factor = 1                           while t < n - c
             f + (1 - f) down(r)         afterwards,   r = (t - n + c) / c

    linear    down(r) = 1 - r
    cosine    down(r) = (1 + cos(pi r)) / 2
    1-sqrt    down(r) = 1 - sqrt(r)

with n the run's length, c the ``cooldown_steps`` at its end (a fifth of the run when not given, at
least one) and f the ``final_fraction``, reached at the step after the last. Only the end depends on
the run's length, so the plateau of a long run serves for shorter ones too.

Papers: Zhai et al., "Scaling Vision Transformers", CVPR 2022 (a cooldown after a plateau, section
3.5); Hu et al., "MiniCPM: Unveiling the Potential of Small Language Models", 2024,
arXiv:2404.06395 (the name); Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed
Training Durations", NeurIPS 2024, arXiv:2405.18392 (1-sqrt, and 20 % of the run).

Where frameworks differ: MiniCPM decays exponentially; Hugging Face's ``get_wsd_schedule`` by a
cosine unless told otherwise; nanochat by a straight line. PyTorch has none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from bptool.optim.schedules.base import Fraction, Misfit, Schedule, ScheduleConfig, Steps
from bptool.registry import schedules

COOLDOWN_SHARE = 5
"""The run's length over that of its cooldown, where none is given."""


class WarmupStableDecayConfig(ScheduleConfig):
    """Settings of ``warmup-stable-decay``."""

    cooldown_steps: Steps | None = Field(
        None, description="Steps of the decay at the run's end; a fifth of the run if not set."
    )
    cooldown: Literal["linear", "cosine", "1-sqrt"] = Field(
        "1-sqrt", description="The decay's shape."
    )
    final_fraction: Fraction = Field(
        0.0, description="End value, as a fraction of the optimizer's learning rate."
    )

    def misfits(self, n_steps: int) -> Iterator[Misfit]:
        """A warm-up and a decay that are together longer than the run."""
        yield from super().misfits(n_steps)
        down, left = self.cooldown_steps, n_steps - self.warmup_steps
        if down is not None and down > left > 0:
            message = f"a decay of {down} steps after a warm-up of {self.warmup_steps} does not"
            yield Misfit("cooldown_steps", down, f"{message} fit into a run of {n_steps}")


@schedules.register("warmup-stable-decay")
class WarmupStableDecay(Schedule):
    """A plateau and a way down; see the module's docstring."""

    Config = WarmupStableDecayConfig
    config: WarmupStableDecayConfig

    def shape(self, done: int, n_steps: int) -> float:
        c = self.config
        total = c.cooldown_steps
        if total is None:
            total = max(1, min(round(n_steps / COOLDOWN_SHARE), n_steps - c.warmup_steps))
        down = done - (n_steps - total)
        if down < 0:
            return 1.0
        if down >= total:
            return c.final_fraction
        if c.cooldown == "linear":
            left = (total - down) / total
        elif c.cooldown == "cosine":
            left = 0.5 * (1.0 + math.cos(math.pi * (down / total)))
        else:
            left = 1.0 - math.sqrt(down / total)
        return c.final_fraction + (1.0 - c.final_fraction) * left
