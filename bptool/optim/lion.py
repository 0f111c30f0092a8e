"""Lion: steps of one size, by the sign of a mean that looks at the newest gradient most.

    w <- (1 - learning_rate weight_decay) w
    w <- w - learning_rate sign(beta1 m + (1 - beta1) g)
    m <- beta2 m + (1 - beta2) g

Defaults, the authors': learning_rate 1e-4, beta1 0.9, beta2 0.99, weight_decay 0. They advise a
rate 3 to 10 times smaller than AdamW's and a decay as much larger.

Paper: Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023, algorithm 2.

Where frameworks differ: optax's default decay is 1e-3; PyTorch has no Lion. A sign of exactly 0
is no step, everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import Field

from bptool.ops.jit import kernel
from bptool.optim.base import (
    Array,
    Fraction,
    LearningRate,
    Optimizer,
    OptimizerConfig,
    WeightDecay,
)
from bptool.registry import optimizers


class LionConfig(OptimizerConfig):
    """Settings of ``lion``."""

    learning_rate: LearningRate = Field(1e-4, description="Step size, before the schedule.")
    beta1: Fraction = Field(0.9, description="Share of the mean in the step's direction.")
    beta2: Fraction = Field(0.99, description="What the mean of the gradient keeps a step.")
    weight_decay: WeightDecay = Field(
        0.0, description="Weights shrink by learning rate times this a step."
    )


@kernel
def lion_update(
    w: Array,
    g: Array,
    m: Array,
    grad_scale: float,
    keep: float,
    learning_rate: float,
    beta1: float,
    beta2: float,
) -> None:
    """One fused pass. All arrays ``(n,)``; ``keep`` multiplies the weights (decoupled decay)."""
    real = w.dtype.type
    scale_, keep_, rate_ = real(grad_scale), real(keep), real(learning_rate)
    beta1_, new1 = real(beta1), real(1.0 - beta1)
    beta2_, new2 = real(beta2), real(1.0 - beta2)
    for i in range(w.shape[0]):
        gi = scale_ * g[i]
        direction = np.sign(beta1_ * m[i] + new1 * gi)
        m[i] = beta2_ * m[i] + new2 * gi
        w[i] = keep_ * w[i] - rate_ * direction


@optimizers.register("lion")
class Lion(Optimizer):
    """Evolved sign momentum; see the module's docstring for the rule."""

    Config = LionConfig
    config: LionConfig
    slots = ("m",)

    def update(
        self,
        w: Array,
        g: Array,
        slots: Mapping[str, Array],
        *,
        learning_rate: float,
        weight_decay: float,
        grad_scale: float,
        step: int,
    ) -> None:
        c = self.config
        lion_update(
            w,
            g,
            slots["m"],
            float(grad_scale),
            1.0 - learning_rate * weight_decay,
            float(learning_rate),
            c.beta1,
            c.beta2,
        )
