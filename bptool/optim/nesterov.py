"""Nesterov's accelerated gradient: momentum whose gradient is taken after the momentum's move.

    g <- g + weight_decay w
    b <- momentum b + g
    w <- w - learning_rate (g + momentum b)

Defaults: momentum 0.9 (PyTorch's SGD has 0, with which Nesterov is refused), the rest as in
``sgd``, whose docstring says where frameworks differ.

Papers: Nesterov, "A method for solving the convex programming problem with convergence rate
O(1/k^2)", 1983; in this form Sutskever, Martens, Dahl and Hinton, ICML 2013.
"""

from __future__ import annotations

from pydantic import Field

from bptool.optim.base import LearningRate, OptimizerConfig, WeightDecay
from bptool.optim.sgd import SGD, SGDConfig
from bptool.registry import optimizers


class NesterovConfig(OptimizerConfig):
    """Settings of ``nesterov``."""

    learning_rate: LearningRate = Field(1e-3, description="Step size, before the schedule.")
    momentum: float = Field(
        0.9, gt=0, lt=1, description="What the running sum of gradients keeps a step."
    )
    weight_decay: WeightDecay = Field(0.0, description="L2: this times w is added to g.")


@optimizers.register("nesterov")
class Nesterov(SGD):
    """SGD with Nesterov's momentum."""

    Config = NesterovConfig

    def as_sgd(self, config: OptimizerConfig) -> SGDConfig:
        return SGDConfig(**config.model_dump(), nesterov=True)
