"""RMSProp: the gradient over the root of a running mean of its square.

    g <- g + weight_decay w
    v <- alpha v + (1 - alpha) g^2
    a <- alpha a + (1 - alpha) g                  centred only
    d  = g / (sqrt(v - a^2) + eps)                (a = 0 when not centred)
    b <- momentum b + d;  d = b                   with momentum only
    w <- w - learning_rate d

Defaults, as in PyTorch: learning_rate 0.01, alpha 0.99, eps 1e-8, momentum 0, not centred,
weight_decay 0.

Sources: Tieleman and Hinton, "Lecture 6.5 - rmsprop", Coursera 2012; centred and with momentum:
Graves, "Generating Sequences With Recurrent Neural Networks", 2013, section 4.2.

Where frameworks differ:
- Epsilon is added outside the root (PyTorch, Keras 3); TensorFlow 1, Graves (1e-4) and optax by
  default add it inside, where 1e-8 acts like 1e-4 outside.
- The mean of squares starts at 0 and is not corrected for it, so the first steps are longer, by
  1 / sqrt(1 - alpha) = 10 at the first. TensorFlow 1 started it at 1.
- alpha is 0.99 here, 0.9 in Hinton's lecture, Keras and optax.
- v - a^2 is at least 0 but for rounding; a negative rounding is taken as 0, where PyTorch's root
  gives NaN.
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


class RMSPropConfig(OptimizerConfig):
    """Settings of ``rmsprop``."""

    learning_rate: LearningRate = Field(1e-2, description="Step size, before the schedule.")
    alpha: Fraction = Field(0.99, description="What the mean of squares keeps a step.")
    eps: Epsilon = Field(1e-8, description="Added to the root of the mean of squares.")
    momentum: Fraction = Field(0.0, description="What the running sum of steps keeps a step.")
    centered: bool = Field(False, description="Divide by the deviation, not the root mean square.")
    weight_decay: WeightDecay = Field(0.0, description="L2: this times w is added to g.")


@kernel
def rmsprop_update(
    w: Array,
    g: Array,
    v: Array,
    a: Array | None,
    b: Array | None,
    grad_scale: float,
    weight_decay: float,
    learning_rate: float,
    alpha: float,
    momentum: float,
    eps: float,
) -> None:
    """One fused pass. All arrays ``(n,)``.

    ``a`` is None when not centred, ``b`` is None without momentum: Numba drops the branches of a
    None at compile time, so each variant is its own straight loop.
    """
    real = w.dtype.type
    zero = real(0.0)
    scale_, decay_, rate_ = real(grad_scale), real(weight_decay), real(learning_rate)
    alpha_, new_, momentum_, eps_ = real(alpha), real(1.0 - alpha), real(momentum), real(eps)
    for i in range(w.shape[0]):
        gi = scale_ * g[i] + decay_ * w[i]
        vi = alpha_ * v[i] + new_ * (gi * gi)
        v[i] = vi
        if a is not None:
            ai = alpha_ * a[i] + new_ * gi
            a[i] = ai
            vi = vi - ai * ai
            vi = max(vi, zero)
        d = gi / (np.sqrt(vi) + eps_)
        if b is not None:
            d = momentum_ * b[i] + d
            b[i] = d
        w[i] -= rate_ * d


@optimizers.register("rmsprop")
class RMSProp(Optimizer):
    """RMSProp, optionally centred and with momentum; see the module's docstring for the rule."""

    Config = RMSPropConfig
    config: RMSPropConfig

    def __init__(self, config: RMSPropConfig) -> None:
        super().__init__(config)
        centered = ("mean",) if config.centered else ()
        momentum = ("momentum",) if config.momentum > 0 else ()
        self.slots = ("mean_square", *centered, *momentum)

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
        rmsprop_update(
            w,
            g,
            slots["mean_square"],
            slots["mean"] if c.centered else None,
            slots["momentum"] if c.momentum > 0 else None,
            float(grad_scale),
            float(weight_decay),
            float(learning_rate),
            c.alpha,
            c.momentum,
            c.eps,
        )
