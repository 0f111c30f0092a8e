"""Schedule-Free AdamW: an average of the weights takes the place of a learning-rate schedule.

    y  = (1 - beta1) z + beta1 x                  where the gradient g is taken
    v <- beta2 v + (1 - beta2) g^2
    d  = g / (sqrt(v) / sqrt(1 - beta2^t) + eps) + weight_decay y
    z <- z - learning_rate d
    c  = L_t^p / (L_1^p + ... + L_t^p),   L_t the largest learning rate so far, p = rate_power
    x <- (1 - c) x + c z                          what is evaluated

The weights that training holds are y; ``evaluation_weights`` gives x, which evaluation, samples
and ``weights.safetensors`` use. Of z and x only the difference e = z - y is kept, which starts at
zero and from which both follow:

    x = y - (1 - beta1) / beta1 e,   z = y + e
    w <- w + c e - learning_rate (1 - beta1 (1 - c)) d          (w is y)
    e <- (1 - c) (e - learning_rate beta1 d)

Use the ``constant`` schedule with a warm-up: the average replaces a decay.

Defaults, the authors': learning_rate 2.5e-3, beta1 0.9, beta2 0.999, eps 1e-8, rate_power 2,
weight_decay 0. They advise beta1 0.9 to 0.98 and a rate 1 to 10 times that of a scheduled AdamW.

Paper: Defazio et al., "The Road Less Scheduled", NeurIPS 2024, algorithm 1; the weights c by the
largest rate, the correction of v by its bias and the decay at y are those of their code
(``weight_lr_power`` 2, ``r`` 0; its own ``warmup_steps`` are the schedule's here).

Where frameworks differ: the authors' code and optax's ``contrib.schedule_free`` keep y and z and
work x out when it is asked for, which is the same method. PyTorch has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from pydantic import Field

from bptool.ops.jit import kernel
from bptool.optim.adam import AdamConfig
from bptool.optim.base import Array, LearningRate, Optimizer, WeightDecay
from bptool.registry import optimizers


class ScheduleFreeAdamWConfig(AdamConfig):
    """Settings of ``schedule-free-adamw``."""

    learning_rate: LearningRate = Field(2.5e-3, description="Step size, before the schedule.")
    beta1: float = Field(
        0.9, gt=0, lt=1, description="Share of the average in the weights that gradients are of."
    )
    rate_power: float = Field(
        2.0, ge=0, le=10, description="Power of the learning rate that weighs a step's average."
    )
    weight_decay: WeightDecay = Field(
        0.0, description="Weights shrink by learning rate times this a step."
    )


@kernel
def schedule_free_update(
    w: Array,
    g: Array,
    e: Array,
    v: Array,
    grad_scale: float,
    weight_decay: float,
    beta1: float,
    beta2: float,
    learning_rate: float,
    c: float,
    root_scale: float,
    eps: float,
) -> None:
    """One fused pass. All arrays ``(n,)``; ``w`` is y, ``e`` is z - y."""
    real = w.dtype.type
    scale_, decay_, eps_ = real(grad_scale), real(weight_decay), real(eps)
    beta2_, new2, root_scale_ = real(beta2), real(1.0 - beta2), real(root_scale)
    c_, rest_ = real(c), real(1.0 - c)
    w_rate, e_rate = real(learning_rate * (1.0 - beta1 * (1.0 - c))), real(learning_rate * beta1)
    for i in range(w.shape[0]):
        gi = scale_ * g[i]
        vi = beta2_ * v[i] + new2 * (gi * gi)
        v[i] = vi
        d = gi / (np.sqrt(vi) * root_scale_ + eps_) + decay_ * w[i]
        ei = e[i]
        w[i] += c_ * ei - w_rate * d
        e[i] = rest_ * (ei - e_rate * d)


@kernel
def schedule_free_average(out: Array, w: Array, e: Array, back: float) -> None:
    """x from y and z - y; all arrays ``(n,)``, ``back`` is (1 - beta1) / beta1."""
    back_ = w.dtype.type(back)
    for i in range(w.shape[0]):
        out[i] = w[i] - back_ * e[i]


@optimizers.register("schedule-free-adamw")
class ScheduleFreeAdamW(Optimizer):
    """AdamW without a schedule; see the module's docstring for the rule."""

    Config = ScheduleFreeAdamWConfig
    config: ScheduleFreeAdamWConfig
    slots = ("z_minus_y", "v")
    scalars = ("largest_rate", "sum_of_weights")
    evaluates_elsewhere = True

    def advance(
        self, scalars: Mapping[str, float], *, learning_rate: float, step: int
    ) -> dict[str, float]:
        largest = max(scalars["largest_rate"], learning_rate)
        total = scalars["sum_of_weights"] + largest**self.config.rate_power
        return {"largest_rate": largest, "sum_of_weights": total}

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
        total = float(slots["sum_of_weights"][0])
        weight = float(slots["largest_rate"][0]) ** c.rate_power
        schedule_free_update(
            w,
            g,
            slots["z_minus_y"],
            slots["v"],
            float(grad_scale),
            float(weight_decay),
            c.beta1,
            c.beta2,
            float(learning_rate),
            weight / total if total > 0 else 0.0,
            1.0 / math.sqrt(1.0 - c.beta2**step),
            c.eps,
        )

    def evaluation_weights(self, out: Array, w: Array, slots: Mapping[str, Array]) -> None:
        beta1 = self.config.beta1
        schedule_free_average(out, w, slots["z_minus_y"], (1.0 - beta1) / beta1)
