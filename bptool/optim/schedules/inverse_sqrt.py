"""Inverse square root: falls as one over the root of the step, without an end.

    factor = sqrt(T / (T + t - warmup_steps)),   T = timescale_steps

It has halved 3 T steps after the warm-up. T is the length of the warm-up when not given, which
makes this the rule of the transformer's first paper, sqrt(warmup_steps / t); without either, T is 1
and the factor 1 / sqrt(step). It does not depend on the run's length n, so a run can be prolonged
at will, and ends wherever it is: at ``sqrt(T / (T + n - 1 - warmup_steps))``.

Paper: Vaswani et al., "Attention Is All You Need", NeurIPS 2017 (section 5.3, equation 3; its
factor d_model^-0.5 belongs to the optimizer's learning rate here).

Where frameworks differ: Hugging Face's ``get_inverse_sqrt_schedule`` is the same but for the
warm-up, from 0, and for T without a warm-up, 10,000; PyTorch has none.
"""

from __future__ import annotations

import math

from pydantic import Field

from bptool.optim.schedules.base import Schedule, ScheduleConfig, Steps
from bptool.registry import schedules


class InverseSqrtConfig(ScheduleConfig):
    """Settings of ``inverse-sqrt``."""

    timescale_steps: Steps | None = Field(
        None, description="Steps that count as gone at the peak; as warmup_steps if not set."
    )


@schedules.register("inverse-sqrt")
class InverseSqrt(Schedule):
    """One over the root of the step; see the module's docstring."""

    Config = InverseSqrtConfig
    config: InverseSqrtConfig

    def shape(self, done: int, n_steps: int) -> float:
        c = self.config
        timescale = max(1, c.warmup_steps) if c.timescale_steps is None else c.timescale_steps
        return math.sqrt(timescale / (timescale + done - c.warmup_steps))
