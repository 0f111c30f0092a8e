"""RAdam: Adam that holds its adaptive step back until its second moment can be trusted.

    g <- g + weight_decay w                       or w <- (1 - learning_rate weight_decay) w
    m <- beta1 m + (1 - beta1) g
    v <- beta2 v + (1 - beta2) g^2
    rho_inf = 2 / (1 - beta2) - 1,   rho_t = rho_inf - 2 t beta2^t / (1 - beta2^t)
    where rho_t > 5:
        r = sqrt((rho_t - 4) (rho_t - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho_t))
        w <- w - learning_rate r / (1 - beta1^t) * m sqrt(1 - beta2^t) / (sqrt(v) + eps)
    else
        w <- w - learning_rate / (1 - beta1^t) * m

Defaults, as in PyTorch: learning_rate 1e-3, beta1 0.9, beta2 0.999, eps 1e-8, weight_decay 0 as
an L2 penalty, or decoupled with ``decoupled_weight_decay``.

Paper: Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", ICLR 2020,
algorithm 2.

Where frameworks differ: the threshold is 5 as in PyTorch, optax and the authors' code; the paper
says 4. Epsilon is added to the root of the *uncorrected* v (PyTorch, the authors' code), so it is
larger than Adam's by 1 / sqrt(1 - beta2^t); optax corrects first. The first steps (5 at beta2
0.999) are momentum steps of the full rate; the authors' ``degenerated_to_sgd: False`` leaves them
out.
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

TRUSTED_FROM = 5.0
"""``rho_t``, the effective number of squares in v, above which the adaptive step is taken."""


class RAdamConfig(AdamConfig):
    """Settings of ``radam``."""

    decoupled_weight_decay: bool = Field(
        False, description="Weights shrink by learning rate times weight_decay a step instead."
    )


@kernel
def radam_update(
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
    from_root: float,
    eps: float,
) -> None:
    """One fused pass. All arrays ``(n,)``. The step is
    ``step_size * m / (from_root * sqrt(v) + eps)``: with 0 and 1 for the last two, momentum."""
    real = w.dtype.type
    scale_, l2_, keep_, eps_ = real(grad_scale), real(l2), real(keep), real(eps)
    beta1_, new1 = real(beta1), real(1.0 - beta1)
    beta2_, new2 = real(beta2), real(1.0 - beta2)
    step_size_, from_root_ = real(step_size), real(from_root)
    for i in range(w.shape[0]):
        gi = scale_ * g[i] + l2_ * w[i]
        mi = beta1_ * m[i] + new1 * gi
        vi = beta2_ * v[i] + new2 * (gi * gi)
        m[i] = mi
        v[i] = vi
        w[i] = keep_ * w[i] - step_size_ * (mi / (from_root_ * np.sqrt(vi) + eps_))


def rectification(beta2: float, step: int) -> float | None:
    """``r`` of ``step``, or None where the second moment cannot be trusted yet."""
    power = beta2**step
    longest = 2.0 / (1.0 - beta2) - 1.0
    length = longest - 2.0 * step * power / (1.0 - power)
    if length <= TRUSTED_FROM:
        return None
    variance = (length - 4.0) * (length - 2.0) * longest
    return math.sqrt(variance / ((longest - 4.0) * (longest - 2.0) * length))


@optimizers.register("radam")
class RAdam(Optimizer):
    """Adam with a rectified step; see the module's docstring for the rule."""

    Config = RAdamConfig
    config: RAdamConfig
    slots = ("m", "v")

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
        step_size = learning_rate / (1.0 - c.beta1**step)
        r = rectification(c.beta2, step)
        if r is not None:
            step_size *= r * math.sqrt(1.0 - c.beta2**step)
        radam_update(
            w,
            g,
            slots["m"],
            slots["v"],
            float(grad_scale),
            0.0 if c.decoupled_weight_decay else float(weight_decay),
            1.0 - learning_rate * weight_decay if c.decoupled_weight_decay else 1.0,
            c.beta1,
            c.beta2,
            step_size,
            0.0 if r is None else 1.0,
            1.0 if r is None else c.eps,
        )
