"""LAMB: AdamW whose step in each tensor is as long as the tensor's weights say.

    m <- beta1 m + (1 - beta1) g
    v <- beta2 v + (1 - beta2) g^2
    d  = m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay w
    r  = |w| / |d|  (2-norms of the tensor; 1 where either is 0, and for biases and norms)
    w <- w - learning_rate r d

Defaults: learning_rate 1e-3, beta1 0.9, beta2 0.999, eps 1e-6, weight_decay 0.01: the paper's
and those of the authors' code, whose rates for large batches are higher.

Paper: You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
ICLR 2020, algorithm 2, with the identity for phi.

Where frameworks differ: the authors' BERT and apex leave tensors without decay out of the ratio,
as here the vectors; optax takes the ratio for all. Version 1 of the paper bounds |w| by phi, and
apex divides the whole gradient by its norm first, which is ``training.clip_norm`` here. PyTorch has
no LAMB.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from pydantic import Field

from bptool.ops.jit import kernel
from bptool.optim.adam import AdamConfig
from bptool.optim.base import Array, Epsilon, WeightDecay
from bptool.optim.norm import sum_of_squares
from bptool.optim.tensor_rule import Bench, Shapes, TensorInfo, TensorRule, keep_and_subtract
from bptool.registry import optimizers


class LAMBConfig(AdamConfig):
    """Settings of ``lamb``."""

    eps: Epsilon = Field(1e-6, description="Added to the root of the second moment.")
    weight_decay: WeightDecay = Field(0.01, description="This times w is added to the step.")


@kernel
def lamb_direction(
    d: Array,
    w: Array,
    g: Array,
    m: Array,
    v: Array,
    grad_scale: float,
    weight_decay: float,
    beta1: float,
    beta2: float,
    mean_scale: float,
    root_scale: float,
    eps: float,
) -> None:
    """The moments and, in ``d``, the step before its length is set. All arrays ``(n,)``."""
    real = w.dtype.type
    scale_, decay_, eps_ = real(grad_scale), real(weight_decay), real(eps)
    beta1_, new1 = real(beta1), real(1.0 - beta1)
    beta2_, new2 = real(beta2), real(1.0 - beta2)
    mean_scale_, root_scale_ = real(mean_scale), real(root_scale)
    for i in range(w.shape[0]):
        gi = scale_ * g[i]
        mi = beta1_ * m[i] + new1 * gi
        vi = beta2_ * v[i] + new2 * (gi * gi)
        m[i] = mi
        v[i] = vi
        d[i] = mean_scale_ * mi / (np.sqrt(vi) * root_scale_ + eps_) + decay_ * w[i]


@optimizers.register("lamb")
class LAMB(TensorRule):
    """Layer-wise adaptive moments; see the module's docstring for the rule."""

    Config = LAMBConfig
    config: LAMBConfig

    def state_shapes(self, tensor: TensorInfo) -> Shapes:
        return {"m": tensor.shape, "v": tensor.shape}

    def scratch_size(self, tensor: TensorInfo) -> int:
        return tensor.size

    def update_tensor(
        self,
        tensor: TensorInfo,
        w: Array,
        g: Array,
        state: Mapping[str, Array],
        bench: Bench,
        *,
        learning_rate: float,
        weight_decay: float,
        grad_scale: float,
        step: int,
    ) -> None:
        c, flat, d = self.config, w.ravel(), bench.scratch[: w.size]
        lamb_direction(
            d,
            flat,
            g.ravel(),
            state["m"].ravel(),
            state["v"].ravel(),
            float(grad_scale),
            float(weight_decay),
            c.beta1,
            c.beta2,
            1.0 / (1.0 - c.beta1**step),
            1.0 / math.sqrt(1.0 - c.beta2**step),
            c.eps,
        )
        ratio = 1.0
        if len(tensor.shape) > 1:
            length, step_length = sum_of_squares(flat), sum_of_squares(d)
            if length > 0 and step_length > 0:
                ratio = math.sqrt(length) / math.sqrt(step_length)
        keep_and_subtract(flat, d, 1.0, learning_rate * ratio)
