"""Adadelta: RMSProp whose numerator is the root mean square of its own past steps.

    g <- g + weight_decay w
    v <- rho v + (1 - rho) g^2
    d  = sqrt(u + eps) / sqrt(v + eps) * g
    u <- rho u + (1 - rho) d^2
    w <- w - learning_rate d

Defaults, as in PyTorch: learning_rate 1, rho 0.9, eps 1e-6, weight_decay 0.

Paper: Zeiler, "ADADELTA: An Adaptive Learning Rate Method", 2012, algorithm 1.

Where frameworks differ: the paper has no learning rate (1 here and in PyTorch and optax; Keras
has 0.001) and takes rho 0.95. Epsilon is inside both roots everywhere. Since ``u`` starts at 0
the first step of every weight is about ``sqrt(eps / (1 - rho))``, and the method is slow to start.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import Field

from bptool.ops.jit import kernel
from bptool.optim.base import (
    Array,
    Epsilon,
    Fraction,
    LearningRate,
    Optimizer,
    OptimizerConfig,
    WeightDecay,
)
from bptool.registry import optimizers


class AdadeltaConfig(OptimizerConfig):
    """Settings of ``adadelta``."""

    learning_rate: LearningRate = Field(1.0, description="Step size, before the schedule.")
    rho: Fraction = Field(0.9, description="What both means of squares keep a step.")
    eps: Epsilon = Field(1e-6, description="Added to both means of squares, inside the root.")
    weight_decay: WeightDecay = Field(0.0, description="L2: this times w is added to g.")


@kernel
def adadelta_update(
    w: Array,
    g: Array,
    v: Array,
    u: Array,
    grad_scale: float,
    weight_decay: float,
    learning_rate: float,
    rho: float,
    eps: float,
) -> None:
    """One fused pass. All arrays ``(n,)``."""
    real = w.dtype.type
    scale_, decay_, rate_ = real(grad_scale), real(weight_decay), real(learning_rate)
    rho_, new_, eps_ = real(rho), real(1.0 - rho), real(eps)
    for i in range(w.shape[0]):
        gi = scale_ * g[i] + decay_ * w[i]
        vi = rho_ * v[i] + new_ * (gi * gi)
        d = np.sqrt((u[i] + eps_) / (vi + eps_)) * gi
        v[i] = vi
        u[i] = rho_ * u[i] + new_ * (d * d)
        w[i] -= rate_ * d


@optimizers.register("adadelta")
class Adadelta(Optimizer):
    """Adadelta; see the module's docstring for the rule."""

    Config = AdadeltaConfig
    config: AdadeltaConfig
    slots = ("mean_square", "mean_square_step")

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
        adadelta_update(
            w,
            g,
            slots["mean_square"],
            slots["mean_square_step"],
            float(grad_scale),
            float(weight_decay),
            float(learning_rate),
            c.rho,
            c.eps,
        )
