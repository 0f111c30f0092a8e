"""Momentum, the heavy ball: SGD whose gradients are summed with an exponential memory.

    g <- g + weight_decay w
    b <- momentum b + (1 - dampening) g           (b <- g at the first step)
    w <- w - learning_rate b

Defaults: momentum 0.9 (PyTorch's SGD has 0, which is plain SGD), the rest as in ``sgd``, whose
docstring says where frameworks differ.

Paper: Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.
"""

from __future__ import annotations

from pydantic import Field

from bptool.optim.base import Fraction, LearningRate, OptimizerConfig, WeightDecay
from bptool.optim.sgd import SGD
from bptool.registry import optimizers


class MomentumConfig(OptimizerConfig):
    """Settings of ``momentum``."""

    learning_rate: LearningRate = Field(1e-3, description="Step size, before the schedule.")
    momentum: Fraction = Field(0.9, description="What the running sum of gradients keeps a step.")
    dampening: float = Field(
        0.0, ge=0, le=1, description="Share of each gradient left out of the running sum."
    )
    weight_decay: WeightDecay = Field(0.0, description="L2: this times w is added to g.")


@optimizers.register("momentum")
class Momentum(SGD):
    """SGD with heavy-ball momentum on by default."""

    Config = MomentumConfig
