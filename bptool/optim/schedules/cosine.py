"""Cosine: half a period of a cosine from 1 down to ``final_fraction``, after a warm-up.

    r      = (t - warmup_steps) / (decay_steps - warmup_steps),   t = step - 1
    factor = f + (1 - f) (1 + cos(pi r)) / 2     while t < decay_steps
             f                                   afterwards

with f the ``final_fraction``. ``decay_steps`` counts from the run's start, warm-up included, and
is the run's length when not given. This is nanoGPT's rule with f = min_lr / learning_rate.

Paper: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017
(equation 5, one period).

Where frameworks differ: PyTorch's ``CosineAnnealingLR`` is the same with ``T_max = decay_steps``
and ``eta_min = f * learning_rate``, but rises again after ``T_max``; optax's ``decay_steps`` also
includes the warm-up; Keras's does not.
"""

from __future__ import annotations

import math

from pydantic import Field, model_validator

from bptool.optim.schedules.base import Schedule, ScheduleConfig
from bptool.registry import schedules


class CosineConfig(ScheduleConfig):
    """Settings of ``cosine``."""

    decay_steps: int | None = Field(
        None, ge=1, description="Step at which the end value is reached; the run's last if not set."
    )
    final_fraction: float = Field(
        0.1, ge=0, le=1, description="End value, as a fraction of the optimizer's learning rate."
    )

    @model_validator(mode="after")
    def _warmup_comes_first(self) -> CosineConfig:
        if self.decay_steps is not None and self.decay_steps <= self.warmup_steps:
            raise ValueError(
                f"decay_steps ({self.decay_steps}) must be greater than warmup_steps "
                f"({self.warmup_steps}): it counts from the start of the run"
            )
        return self


@schedules.register("cosine")
class Cosine(Schedule):
    """Half a cosine from 1 to ``final_fraction``; see the module's docstring."""

    Config = CosineConfig
    config: CosineConfig

    def shape(self, done: int, n_steps: int) -> float:
        c = self.config
        end = n_steps if c.decay_steps is None else c.decay_steps
        if done >= end:
            return c.final_fraction
        progress = (done - c.warmup_steps) / (end - c.warmup_steps)
        return c.final_fraction + (1.0 - c.final_fraction) * 0.5 * (
            1.0 + math.cos(math.pi * progress)
        )
