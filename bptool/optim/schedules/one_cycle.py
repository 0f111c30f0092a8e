"""One cycle: up to the optimizer's learning rate, then down to almost nothing.

With n steps after the warm-up, x of them behind, and p the ``rise_fraction``:

    start_fraction -> 1                   for x from 0 to p n - 1
    1 -> final_fraction                   up to n - 1, the last step

and with ``three_phases``

    1 -> start_fraction                   up to 2 p n - 2
    start_fraction -> final_fraction      up to n - 1

each by half a cosine, or a straight line (``anneal``). ``optimizer.learning_rate`` is the peak. The
last step has the end value itself. A warm-up goes from 0 to ``start_fraction``: the cycle brings
its own, so it is rarely wanted.

Papers: Smith, "A disciplined approach to neural network hyper-parameters: Part 1", 2018,
arXiv:1803.09820 (section 4.3: the cycle, and momentum that falls where the rate rises); Smith and
Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates", 2019,
arXiv:1708.07120.

Where frameworks differ: this is PyTorch's ``OneCycleLR`` with ``total_steps`` n, ``pct_start`` p,
``div_factor = 1 / start_fraction`` and ``final_div_factor = start_fraction / final_fraction``, with
its defaults, but without ``cycle_momentum``: a schedule here gives one number, the rate's factor,
and rules without a momentum would have to be told apart. fastai rises over a quarter and ends at
1e-5 of the start; Smith's own has three phases of straight lines.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from bptool.config.section import refuse
from bptool.optim.schedules.base import Fraction, Schedule, ScheduleConfig
from bptool.registry import schedules

START = 1 / 25
FINAL = START / 1e4


class OneCycleConfig(ScheduleConfig):
    """Settings of ``one-cycle``."""

    rise_fraction: float = Field(
        0.3, gt=0, lt=1, description="Share of the run in which the rate rises."
    )
    start_fraction: Fraction = Field(
        START, description="First value, as a fraction of the optimizer's learning rate."
    )
    final_fraction: Fraction = Field(
        FINAL, description="End value, as a fraction of the optimizer's learning rate."
    )
    anneal: Literal["cosine", "linear"] = Field("cosine", description="How it goes up and down.")
    three_phases: bool = Field(
        False, description="Go down as long as it went up, then further down to the end value."
    )

    @model_validator(mode="after")
    def _phases_fit(self) -> OneCycleConfig:
        p = self.rise_fraction
        if self.three_phases and p > 0.5:
            refuse(
                "rise_fraction", p, f"found {p:g}, need at most 0.5: it falls as long as it rose"
            )
        return self


@schedules.register("one-cycle")
class OneCycle(Schedule):
    """Up and down; see the module's docstring."""

    Config = OneCycleConfig
    config: OneCycleConfig

    def shape(self, done: int, n_steps: int) -> float:
        c = self.config
        n, x = n_steps - c.warmup_steps, done - c.warmup_steps
        phases = [(c.rise_fraction * n - 1, c.start_fraction, 1.0)]
        if c.three_phases:
            phases.append((2 * c.rise_fraction * n - 2, 1.0, c.start_fraction))
        phases.append((n - 1, phases[-1][2], c.final_fraction))
        begin = 0.0
        for end, first, last in phases:
            if begin < end and x <= end:
                return self._between(first, last, (x - begin) / (end - begin))
            begin = end
        return c.final_fraction

    def _between(self, first: float, last: float, share: float) -> float:
        if self.config.anneal == "linear":
            return (last - first) * share + first
        return last + (first - last) / 2.0 * (1.0 + math.cos(math.pi * share))
