"""Adam: a running mean of the gradient over the root of a running mean of its square.

    g <- g + weight_decay w
    m <- beta1 m + (1 - beta1) g
    v <- beta2 v + (1 - beta2) g^2
    w <- w - learning_rate / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)

Defaults, as in PyTorch: learning_rate 1e-3, beta1 0.9, beta2 0.999, eps 1e-8, weight_decay 0.

Paper: Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, algorithm 1.

Where frameworks differ:
- Epsilon is added to the root of the *bias-corrected* v (the paper, PyTorch, optax). The paper's
  faster form and Keras (1e-7) add it before the correction, which makes it larger by
  1 / sqrt(1 - beta2^t), about 30 times at the first step. optax can add one inside the root too
  (``eps_root``, 0 by default).
- The maximum of the second moments (PyTorch's ``amsgrad``) is a rule of its own here, ``amsgrad``.
- ``weight_decay`` here is the L2 penalty's gradient, so it is divided by sqrt(v) with the rest.
  Decay beside the gradient is ``adamw``.
"""

from __future__ import annotations

import math
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


class AdamConfig(OptimizerConfig):
    """Settings of ``adam``."""

    learning_rate: LearningRate = Field(1e-3, description="Step size, before the schedule.")
    beta1: Fraction = Field(0.9, description="What the mean of the gradient keeps a step.")
    beta2: Fraction = Field(0.999, description="What the mean of its square keeps a step.")
    eps: Epsilon = Field(1e-8, description="Added to the root of the second moment.")
    weight_decay: WeightDecay = Field(0.0, description="L2: this times w is added to g.")


@kernel
def adam_update(
    w: Array,
    g: Array,
    m: Array,
    v: Array,
    grad_scale: float,
    l2: float,
    keep: float,
    beta1: float,
    beta2: float,
    step_size: float,
    root_scale: float,
    eps: float,
) -> None:
    """One fused pass of Adam or AdamW. All arrays ``(n,)``.

    ``l2`` is added to the gradient as ``l2 * w``; ``keep`` multiplies the weights (decoupled
    decay); ``step_size`` is lr / (1 - beta1^t) and ``root_scale`` is 1 / sqrt(1 - beta2^t).
    """
    real = w.dtype.type
    scale_, l2_, keep_, eps_ = real(grad_scale), real(l2), real(keep), real(eps)
    beta1_, new1 = real(beta1), real(1.0 - beta1)
    beta2_, new2 = real(beta2), real(1.0 - beta2)
    step_size_, root_scale_ = real(step_size), real(root_scale)
    for i in range(w.shape[0]):
        gi = scale_ * g[i] + l2_ * w[i]
        mi = beta1_ * m[i] + new1 * gi
        vi = beta2_ * v[i] + new2 * (gi * gi)
        m[i] = mi
        v[i] = vi
        w[i] = keep_ * w[i] - step_size_ * (mi / (np.sqrt(vi) * root_scale_ + eps_))


@optimizers.register("adam")
class Adam(Optimizer):
    """Adam with L2 weight decay; see the module's docstring for the rule."""

    Config = AdamConfig
    config: AdamConfig
    slots = ("m", "v")
    decoupled = False
    """Whether weight decay acts on the weights rather than through the gradient."""

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
        adam_update(
            w,
            g,
            slots["m"],
            slots["v"],
            float(grad_scale),
            0.0 if self.decoupled else float(weight_decay),
            1.0 - learning_rate * weight_decay if self.decoupled else 1.0,
            c.beta1,
            c.beta2,
            learning_rate / (1.0 - c.beta1**step),
            1.0 / math.sqrt(1.0 - c.beta2**step),
            c.eps,
        )
