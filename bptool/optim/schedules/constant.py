"""Constant: the optimizer's own learning rate throughout, after an optional warm-up.

factor = 1
"""

from __future__ import annotations

from bptool.optim.schedules.base import Schedule, ScheduleConfig
from bptool.registry import schedules


class ConstantConfig(ScheduleConfig):
    """Settings of ``constant``."""


@schedules.register("constant")
class Constant(Schedule):
    """The same learning rate at every step."""

    Config = ConstantConfig

    def shape(self, done: int, n_steps: int) -> float:
        return 1.0
