"""No average: the weights that training holds are the ones to keep."""

from __future__ import annotations

from bptool.optim.averages.base import AverageConfig, WeightAverage
from bptool.registry import averages


class NoneConfig(AverageConfig):
    """Settings of ``none``."""


@averages.register("none")
class NoAverage(WeightAverage):
    """Takes nothing in."""

    Config = NoneConfig
