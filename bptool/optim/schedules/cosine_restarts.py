"""Cosine with warm restarts: cycles of half a cosine, each back at 1 and longer than the last.

    factor = f + (1 - f) (1 + cos(pi (t - s_i) / (s_i+1 - s_i))) / 2     for s_i <= t < s_i+1
    s_0    = warmup_steps,   s_i+1 - s_i = cycle_steps * cycle_growth^i

with f the ``final_fraction`` and each s_i rounded to a whole step, so that a cycle begins at
exactly 1. Given ``n_cycles`` instead of ``cycle_steps``, the first cycle is as long as lets them
fill the run, which then ends at its end value; 3 cycles if neither is given.

Paper: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017
(equation 5; ``cycle_steps`` is their T_0, ``cycle_growth`` their T_mult).

Where frameworks differ: PyTorch's ``CosineAnnealingWarmRestarts`` is the same with ``T_0 =
cycle_steps``, ``T_mult = cycle_growth`` (whole numbers only; its default is 1) and ``eta_min =
f * learning_rate``. Hugging Face's ``cosine_with_hard_restarts`` has cycles of one length that
fill the run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, model_validator

from bptool.config.section import refuse
from bptool.optim.schedules.base import Fraction, Misfit, Schedule, ScheduleConfig, Steps
from bptool.registry import schedules

N_CYCLES = 3


class CosineRestartsConfig(ScheduleConfig):
    """Settings of ``cosine-restarts``."""

    cycle_steps: Steps | None = Field(
        None, description="Length of the first cycle; from n_cycles and the run's if not set."
    )
    n_cycles: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None, description="Cycles that fill the run, where cycle_steps is not set; 3 if not set."
    )
    cycle_growth: float = Field(
        2.0, ge=1, le=100, description="How much longer a cycle is than the one before."
    )
    final_fraction: Fraction = Field(
        0.0, description="End value of a cycle, as a fraction of the optimizer's learning rate."
    )

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> CosineRestartsConfig:
        if self.cycle_steps is not None and self.n_cycles is not None:
            message = "n_cycles and cycle_steps both say how long a cycle is; keep one"
            refuse("n_cycles", self.n_cycles, message)
        return self

    def first_cycle(self, n_steps: int) -> float:
        """Steps of the first cycle, not rounded."""
        if self.cycle_steps is not None:
            return float(self.cycle_steps)
        n = N_CYCLES if self.n_cycles is None else self.n_cycles
        return (n_steps - self.warmup_steps) / _sum_of_powers(self.cycle_growth, n)

    def misfits(self, n_steps: int) -> Iterator[Misfit]:
        """A warm-up or a first cycle that does not end within the run, or cycles without a step."""
        yield from super().misfits(n_steps)
        first, left = self.first_cycle(n_steps), n_steps - self.warmup_steps
        if self.cycle_steps is not None and self.cycle_steps > left > 0:
            message = f"a cycle of {self.cycle_steps} steps does not end within the {left} steps"
            yield Misfit("cycle_steps", self.cycle_steps, f"{message} after the warm-up")
        if self.n_cycles is not None and left > 0 and first < 1.0:
            message = f"the first cycle has no step of the {left} after the warm-up"
            yield Misfit("n_cycles", self.n_cycles, f"{message}; fewer, or a smaller cycle_growth")


def _sum_of_powers(growth: float, n: int) -> float:
    """1 + growth + ... + growth^(n - 1); infinite where that overflows."""
    if growth == 1.0:
        return float(n)
    try:
        return math.expm1(n * math.log(growth)) / (growth - 1.0)
    except OverflowError:
        return math.inf


@schedules.register("cosine-restarts")
class CosineRestarts(Schedule):
    """Cycles of half a cosine; see the module's docstring."""

    Config = CosineRestartsConfig
    config: CosineRestartsConfig

    def shape(self, done: int, n_steps: int) -> float:
        c = self.config
        if c.cycle_steps is None and done >= n_steps:
            return c.final_fraction
        x, first = done - c.warmup_steps, max(c.first_cycle(n_steps), 1.0)
        i = self._cycle_at(x, first)
        start, end = self._start(i, first), self._start(i + 1, first)
        progress = (x - start) / (end - start)
        return c.final_fraction + (1.0 - c.final_fraction) * 0.5 * (
            1.0 + math.cos(math.pi * progress)
        )

    def _start(self, i: int, first: float) -> float:
        """Steps from the end of the warm-up to the start of cycle ``i``; rounded half up, so that
        cycles of at least a step have one."""
        return math.floor(first * _sum_of_powers(self.config.cycle_growth, i) + 0.5)

    def _cycle_at(self, x: int, first: float) -> int:
        """The last cycle that starts at ``x`` or before."""
        growth = self.config.cycle_growth
        if growth == 1.0:
            i = int(x / first)
        else:
            i = int(math.log1p(x * (growth - 1.0) / first) / math.log(growth))
        while self._start(i + 1, first) <= x:
            i += 1
        while i > 0 and self._start(i, first) > x:
            i -= 1
        return i
