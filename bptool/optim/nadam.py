"""NAdam: Adam with Nesterov's look-ahead and a momentum that warms up.

    g <- g + weight_decay w                       or w <- (1 - learning_rate weight_decay) w
    m <- beta1 m + (1 - beta1) g
    v <- beta2 v + (1 - beta2) g^2
    mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2)
    P_t  = mu_1 mu_2 ... mu_t
    d    = (1 - mu_t) / (1 - P_t) g + mu_(t+1) / (1 - P_(t+1)) m
    w <- w - learning_rate d / (sqrt(v) / sqrt(1 - beta2^t) + eps)

Defaults, as in PyTorch: learning_rate 2e-3, beta1 0.9, beta2 0.999, eps 1e-8, momentum_decay
4e-3, weight_decay 0 as an L2 penalty (``nadamw`` decays the weights instead).

Paper: Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016, algorithm 2.

Where frameworks differ: in the momentum's schedule. The one above is PyTorch's with Dozat's
0.96 and 1/250; Keras has 0.96^t, which is ``momentum_decay`` 1; optax's ``nadam`` has none, its mu
is beta1 throughout. m keeps beta1 a step, as in PyTorch, where the paper's keeps mu_t.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from pydantic import Field

from bptool.ops.jit import kernel
from bptool.optim.adam import AdamConfig
from bptool.optim.base import Array, LearningRate, Optimizer
from bptool.registry import optimizers


class NAdamConfig(AdamConfig):
    """Settings of ``nadam``."""

    learning_rate: LearningRate = Field(2e-3, description="Step size, before the schedule.")
    momentum_decay: float = Field(
        4e-3, ge=0, le=1e3, description="How fast the momentum warms up from half of beta1."
    )
    decoupled_weight_decay: bool = Field(
        False, description="Weights shrink by learning rate times weight_decay a step instead."
    )


@kernel
def nadam_update(
    w: Array,
    g: Array,
    m: Array,
    v: Array,
    grad_scale: float,
    l2: float,
    keep: float,
    beta1: float,
    beta2: float,
    from_gradient: float,
    from_mean: float,
    root_scale: float,
    eps: float,
) -> None:
    """One fused pass. All arrays ``(n,)``; the step's numerator is
    ``from_gradient * g + from_mean * m``, the other numbers are as in ``adam_update``."""
    real = w.dtype.type
    scale_, l2_, keep_, eps_ = real(grad_scale), real(l2), real(keep), real(eps)
    beta1_, new1 = real(beta1), real(1.0 - beta1)
    beta2_, new2 = real(beta2), real(1.0 - beta2)
    from_gradient_, from_mean_ = real(from_gradient), real(from_mean)
    root_scale_ = real(root_scale)
    for i in range(w.shape[0]):
        gi = scale_ * g[i] + l2_ * w[i]
        mi = beta1_ * m[i] + new1 * gi
        vi = beta2_ * v[i] + new2 * (gi * gi)
        m[i] = mi
        v[i] = vi
        d = from_gradient_ * gi + from_mean_ * mi
        w[i] = keep_ * w[i] - d / (np.sqrt(vi) * root_scale_ + eps_)


@optimizers.register("nadam")
class NAdam(Optimizer):
    """Adam with Nesterov's look-ahead; see the module's docstring for the rule."""

    Config = NAdamConfig
    config: NAdamConfig
    slots = ("m", "v")
    scalars = ("mu_product",)

    def mu(self, step: int) -> float:
        """The momentum of ``step``."""
        c = self.config
        return float(c.beta1 * (1.0 - 0.5 * 0.96 ** (step * c.momentum_decay)))

    def advance(
        self, scalars: Mapping[str, float], *, learning_rate: float, step: int
    ) -> dict[str, float]:
        before = scalars["mu_product"] if step > 1 else 1.0
        return {"mu_product": before * self.mu(step)}

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
        mu, mu_next = self.mu(step), self.mu(step + 1)
        product = float(slots["mu_product"][0])
        nadam_update(
            w,
            g,
            slots["m"],
            slots["v"],
            float(grad_scale),
            0.0 if c.decoupled_weight_decay else float(weight_decay),
            1.0 - learning_rate * weight_decay if c.decoupled_weight_decay else 1.0,
            c.beta1,
            c.beta2,
            learning_rate * (1.0 - mu) / (1.0 - product),
            learning_rate * mu_next / (1.0 - product * mu_next),
            1.0 / math.sqrt(1.0 - c.beta2**step),
            c.eps,
        )
