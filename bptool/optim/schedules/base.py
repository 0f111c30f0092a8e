"""What every schedule has: a typed ``Config``, a linear warm-up, and the factor after it.

    factor(step) = step / (warmup_steps + 1)     for step <= warmup_steps
                   shape(step - 1, n_steps)      afterwards

``step`` counts from 1. The warm-up never gives 0, so the first step is not wasted, and it meets 1
at the step after it: nanoGPT's rule. PyTorch's ``LinearLR`` starts at a third by default and
optax's ``warmup_cosine_decay_schedule`` at 0.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from bptool.config.section import Section


class ScheduleConfig(Section):
    """Settings that every schedule has."""

    warmup_steps: int = Field(0, ge=0, description="Steps of linear warm-up before the schedule.")


class Schedule:
    """What the optimizer's learning rate is multiplied by at each step.

    A schedule of one's own gives ``shape``; the warm-up comes with the base.
    """

    Config: ClassVar[type[ScheduleConfig]] = ScheduleConfig
    name: ClassVar[str]

    config: ScheduleConfig

    def __init__(self, config: ScheduleConfig) -> None:
        self.config = config

    def factor(self, step: int, n_steps: int) -> float:
        """The factor, in [0, 1], at ``step`` (from 1) of a run of ``n_steps``."""
        if step <= self.config.warmup_steps:
            return step / (self.config.warmup_steps + 1)
        return self.shape(step - 1, n_steps)

    def shape(self, done: int, n_steps: int) -> float:
        """The factor once the warm-up is over, with ``done`` steps behind (>= warmup_steps)."""
        raise NotImplementedError
