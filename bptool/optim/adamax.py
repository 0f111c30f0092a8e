"""Adamax: Adam with the largest recent gradient in place of the root mean square.

    g <- g + weight_decay w
    m <- beta1 m + (1 - beta1) g
    u <- max(beta2 u, |g| + eps)
    w <- w - learning_rate / (1 - beta1^t) * m / u

Defaults, as in PyTorch: learning_rate 2e-3, beta1 0.9, beta2 0.999, eps 1e-8, weight_decay 0.

Paper: Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, algorithm 2.

Where frameworks differ: epsilon goes into the maximum (PyTorch, optax); Keras (1e-7) adds it to
u at the division, and the paper has none. A weight whose gradient is exactly 0 keeps
``u <- beta2 u`` here and is divided by at least eps: the same steps, and the padding of the buffers
stays zero.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from bptool.ops.jit import kernel
from bptool.optim.adam import AdamConfig
from bptool.optim.base import Array, Epsilon, Fraction, LearningRate, Optimizer
from bptool.registry import optimizers


class AdamaxConfig(AdamConfig):
    """Settings of ``adamax``."""

    learning_rate: LearningRate = Field(2e-3, description="Step size, before the schedule.")
    beta2: Fraction = Field(0.999, description="What the largest gradient keeps a step.")
    eps: Epsilon = Field(1e-8, description="Added to the size of the gradient.")


@kernel
def adamax_update(
    w: Array,
    g: Array,
    m: Array,
    u: Array,
    grad_scale: float,
    weight_decay: float,
    beta1: float,
    beta2: float,
    step_size: float,
    eps: float,
) -> None:
    """One fused pass. All arrays ``(n,)``; ``step_size`` is lr / (1 - beta1^t)."""
    real = w.dtype.type
    scale_, decay_, eps_ = real(grad_scale), real(weight_decay), real(eps)
    beta1_, new1, beta2_ = real(beta1), real(1.0 - beta1), real(beta2)
    step_size_, zero = real(step_size), real(0.0)
    for i in range(w.shape[0]):
        gi = scale_ * g[i] + decay_ * w[i]
        mi = beta1_ * m[i] + new1 * gi
        size = abs(gi) + eps_ if gi != zero else zero
        ui = max(beta2_ * u[i], size)
        m[i] = mi
        u[i] = ui
        w[i] -= step_size_ * (mi / max(ui, eps_))


@optimizers.register("adamax")
class Adamax(Optimizer):
    """Adam in the infinity norm; see the module's docstring for the rule."""

    Config = AdamaxConfig
    config: AdamaxConfig
    slots = ("m", "u")

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
        adamax_update(
            w,
            g,
            slots["m"],
            slots["u"],
            float(grad_scale),
            float(weight_decay),
            c.beta1,
            c.beta2,
            learning_rate / (1.0 - c.beta1**step),
            c.eps,
        )
