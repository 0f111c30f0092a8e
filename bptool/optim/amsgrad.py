"""AMSGrad: Adam whose second moment never falls.

    g <- g + weight_decay w                       or w <- (1 - learning_rate weight_decay) w
    m <- beta1 m + (1 - beta1) g
    v <- beta2 v + (1 - beta2) g^2
    u <- max(u, v)
    w <- w - learning_rate / (1 - beta1^t) * m / (sqrt(u) / sqrt(1 - beta2^t) + eps)

Defaults, as in PyTorch's Adam with ``amsgrad``: learning_rate 1e-3, beta1 0.9, beta2 0.999, eps
1e-8, weight_decay 0 as an L2 penalty; ``decoupled_weight_decay`` makes it PyTorch's AdamW with
``amsgrad``.

Paper: Reddi, Kale and Kumar, "On the Convergence of Adam and Beyond", ICLR 2018, algorithm 2.

Where frameworks differ: the maximum is taken over the *uncorrected* v and corrected at its use
(PyTorch, Keras), so that the step may still grow while 1 - beta2^t does; optax takes it over the
corrected one. The paper corrects neither moment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from pydantic import Field

from bptool.ops.jit import kernel
from bptool.optim.adam import AdamConfig
from bptool.optim.base import Array, Optimizer
from bptool.registry import optimizers


class AMSGradConfig(AdamConfig):
    """Settings of ``amsgrad``."""

    decoupled_weight_decay: bool = Field(
        False, description="Weights shrink by learning rate times weight_decay a step instead."
    )


@kernel
def amsgrad_update(
    w: Array,
    g: Array,
    m: Array,
    v: Array,
    u: Array,
    grad_scale: float,
    l2: float,
    keep: float,
    beta1: float,
    beta2: float,
    step_size: float,
    root_scale: float,
    eps: float,
) -> None:
    """One fused pass. All arrays ``(n,)``; numbers as in ``adam_update``."""
    real = w.dtype.type
    scale_, l2_, keep_, eps_ = real(grad_scale), real(l2), real(keep), real(eps)
    beta1_, new1 = real(beta1), real(1.0 - beta1)
    beta2_, new2 = real(beta2), real(1.0 - beta2)
    step_size_, root_scale_ = real(step_size), real(root_scale)
    for i in range(w.shape[0]):
        gi = scale_ * g[i] + l2_ * w[i]
        mi = beta1_ * m[i] + new1 * gi
        vi = beta2_ * v[i] + new2 * (gi * gi)
        ui = max(u[i], vi)
        m[i] = mi
        v[i] = vi
        u[i] = ui
        w[i] = keep_ * w[i] - step_size_ * (mi / (np.sqrt(ui) * root_scale_ + eps_))


@optimizers.register("amsgrad")
class AMSGrad(Optimizer):
    """Adam with the maximum of its second moments; see the module's docstring for the rule."""

    Config = AMSGradConfig
    config: AMSGradConfig
    slots = ("m", "v", "v_max")

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
        amsgrad_update(
            w,
            g,
            slots["m"],
            slots["v"],
            slots["v_max"],
            float(grad_scale),
            0.0 if c.decoupled_weight_decay else float(weight_decay),
            1.0 - learning_rate * weight_decay if c.decoupled_weight_decay else 1.0,
            c.beta1,
            c.beta2,
            learning_rate / (1.0 - c.beta1**step),
            1.0 / math.sqrt(1.0 - c.beta2**step),
            c.eps,
        )
