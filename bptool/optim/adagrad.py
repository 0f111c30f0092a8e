"""Adagrad: the gradient over the root of the sum of its squares since the start.

    g <- g + weight_decay w
    s <- s + g^2
    w <- w - learning_rate / (1 + (t - 1) learning_rate_decay) * g / (sqrt(initial + s) + eps)

Defaults, as in PyTorch: learning_rate 0.01, learning_rate_decay 0, initial_accumulator 0, eps
1e-10, weight_decay 0.

Paper: Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic
Optimization", JMLR 12, 2011, figure 1 with the diagonal matrix.

Where frameworks differ:
- The accumulator starts at 0 (the paper, PyTorch), where the first step of every weight is the
  learning rate whatever its gradient; TensorFlow, Keras and optax start it at 0.1.
- Epsilon is outside the root (the paper's delta, PyTorch); optax (1e-7) and Keras (1e-7) add it
  inside.
- Here ``s`` is the sum alone and the initial value is added at its use, so that the state starts
  at zero; the steps are the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import Field

from bptool.ops.jit import kernel
from bptool.optim.base import (
    Array,
    Epsilon,
    LearningRate,
    Optimizer,
    OptimizerConfig,
    WeightDecay,
)
from bptool.registry import optimizers


class AdagradConfig(OptimizerConfig):
    """Settings of ``adagrad``."""

    learning_rate: LearningRate = Field(1e-2, description="Step size, before the schedule.")
    learning_rate_decay: float = Field(
        0.0, ge=0, le=1e6, description="The step size is divided by 1 + (step - 1) times this."
    )
    initial_accumulator: float = Field(
        0.0, ge=0, le=1e6, description="Where the sum of squares starts; 0.1 in TensorFlow."
    )
    eps: Epsilon = Field(1e-10, description="Added to the root of the sum of squares.")
    weight_decay: WeightDecay = Field(0.0, description="L2: this times w is added to g.")


@kernel
def adagrad_update(
    w: Array,
    g: Array,
    s: Array,
    grad_scale: float,
    weight_decay: float,
    learning_rate: float,
    initial: float,
    eps: float,
) -> None:
    """One fused pass. All arrays ``(n,)``."""
    real = w.dtype.type
    scale_, decay_, rate_ = real(grad_scale), real(weight_decay), real(learning_rate)
    initial_, eps_ = real(initial), real(eps)
    for i in range(w.shape[0]):
        gi = scale_ * g[i] + decay_ * w[i]
        si = s[i] + gi * gi
        s[i] = si
        w[i] -= rate_ * (gi / (np.sqrt(initial_ + si) + eps_))


@optimizers.register("adagrad")
class Adagrad(Optimizer):
    """Adagrad with a diagonal; see the module's docstring for the rule."""

    Config = AdagradConfig
    config: AdagradConfig
    slots = ("sum",)

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
        adagrad_update(
            w,
            g,
            slots["sum"],
            float(grad_scale),
            float(weight_decay),
            learning_rate / (1.0 + (step - 1) * c.learning_rate_decay),
            c.initial_accumulator,
            c.eps,
        )
