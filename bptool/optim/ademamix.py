"""AdEMAMix: AdamW with a second, much slower mean of the gradient.

    w <- (1 - learning_rate weight_decay) w
    m <- beta1 m + (1 - beta1) g
    n <- beta3_t n + (1 - beta3_t) g
    v <- beta2 v + (1 - beta2) g^2
    w <- w - learning_rate (m / (1 - beta1^t) + alpha_t n) / (sqrt(v) / sqrt(1 - beta2^t) + eps)

Over ``warmup_steps``, alpha_t grows linearly from 0 to alpha, and beta3_t from beta1 to beta3 so
that its half-life grows linearly:

    ln beta3_t = ln beta1 ln beta3 / ((1 - s) ln beta3 + s ln beta1),   s = t / warmup_steps

Defaults, those of the authors' code: learning_rate 1e-3, beta1 0.9, beta2 0.999, beta3 0.9999,
alpha 2, no warm-up, eps 1e-8, weight_decay 0. In the paper alpha is 5 to 8 and the warm-up as long
as the run; without one the slow mean makes the first steps of a large model unstable. A mean of
half-life 7,000 steps does little in a run of a few hundred: take beta3 near 1 - 1 / steps.

Paper: Pagliardini, Ablin and Grangier, "The AdEMAMix Optimizer: Better, Faster, Older", ICLR
2025, algorithm 1.

Where frameworks differ: optax's ``contrib.ademamix`` has alpha 5 and takes the two schedules as
functions. The slow mean is bias-corrected nowhere; it starts at 0 and grows with alpha_t.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from pydantic import Field

from bptool.ops.jit import kernel
from bptool.optim.adam import AdamConfig
from bptool.optim.base import Array, Optimizer, WeightDecay
from bptool.registry import optimizers


class AdEMAMixConfig(AdamConfig):
    """Settings of ``ademamix``."""

    beta1: float = Field(0.9, gt=0, lt=1, description="What the fast mean keeps a step.")
    beta3: float = Field(0.9999, gt=0, lt=1, description="What the slow mean keeps a step.")
    alpha: float = Field(
        2.0, ge=0, le=1e4, description="Weight of the slow mean beside the fast one."
    )
    warmup_steps: int = Field(
        0, ge=0, le=10**9, description="Steps over which alpha and beta3 grow to their values."
    )
    weight_decay: WeightDecay = Field(
        0.0, description="Weights shrink by learning rate times this a step."
    )


@kernel
def ademamix_update(
    w: Array,
    g: Array,
    m: Array,
    n: Array,
    v: Array,
    grad_scale: float,
    keep: float,
    beta1: float,
    beta2: float,
    beta3: float,
    from_fast: float,
    from_slow: float,
    root_scale: float,
    eps: float,
) -> None:
    """One fused pass. All arrays ``(n,)``; the numerator is ``from_fast * m + from_slow * n``."""
    real = w.dtype.type
    scale_, keep_, eps_ = real(grad_scale), real(keep), real(eps)
    beta1_, new1 = real(beta1), real(1.0 - beta1)
    beta2_, new2 = real(beta2), real(1.0 - beta2)
    beta3_, new3 = real(beta3), real(1.0 - beta3)
    from_fast_, from_slow_, root_scale_ = real(from_fast), real(from_slow), real(root_scale)
    for i in range(w.shape[0]):
        gi = scale_ * g[i]
        mi = beta1_ * m[i] + new1 * gi
        ni = beta3_ * n[i] + new3 * gi
        vi = beta2_ * v[i] + new2 * (gi * gi)
        m[i] = mi
        n[i] = ni
        v[i] = vi
        d = from_fast_ * mi + from_slow_ * ni
        w[i] = keep_ * w[i] - d / (np.sqrt(vi) * root_scale_ + eps_)


@optimizers.register("ademamix")
class AdEMAMix(Optimizer):
    """AdamW with two means of the gradient; see the module's docstring for the rule."""

    Config = AdEMAMixConfig
    config: AdEMAMixConfig
    slots = ("m", "m_slow", "v")

    def warmed_up(self, step: int) -> tuple[float, float]:
        """alpha and beta3 of ``step``."""
        c = self.config
        if step >= c.warmup_steps:
            return c.alpha, c.beta3
        done = step / c.warmup_steps
        low, high = math.log(c.beta1), math.log(c.beta3)
        return done * c.alpha, math.exp(low * high / ((1.0 - done) * high + done * low))

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
        alpha, beta3 = self.warmed_up(step)
        ademamix_update(
            w,
            g,
            slots["m"],
            slots["m_slow"],
            slots["v"],
            float(grad_scale),
            1.0 - learning_rate * weight_decay,
            c.beta1,
            c.beta2,
            beta3,
            learning_rate / (1.0 - c.beta1**step),
            learning_rate * alpha,
            1.0 / math.sqrt(1.0 - c.beta2**step),
            c.eps,
        )
