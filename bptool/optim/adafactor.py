"""Adafactor: a second moment kept as one number a row and one a column.

    b = t^beta2_decay
    a = max(eps2, rms(w)) min(learning_rate, 1 / sqrt(t))
    w <- (1 - learning_rate weight_decay) w
    R <- (1 - b) R + b mean of g^2 over each row;   C <- (1 - b) C + b mean over each column
    V  = R C^T / max(mean(R), eps1)               V <- (1 - b) V + b g^2   for a vector
    u  = g / sqrt(max(V, eps1^2))
    w <- w - a u / max(1, rms(u) / clip)

Defaults, as in PyTorch: learning_rate 0.01, beta2_decay -0.8, eps1 the type's machine epsilon
(1.2e-7 in float32), eps2 1e-3, clip 1 (PyTorch's ``d``), weight_decay 0.

Paper: Shazeer and Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", ICML
2018, algorithms 4 and 5 with relative steps of section 8.

Where frameworks differ: PyTorch, as here, bounds the estimate by eps1^2 from below where the paper
adds eps1 (1e-30) to g^2; has no momentum (the paper's beta1, Hugging Face's and optax's
``momentum``); and takes the smaller of the learning rate and 1 / sqrt(t), where the paper's is the
smaller of 0.01 and 1 / sqrt(t) and Hugging Face turns that off when a rate is given. optax factors
only sides of at least 128. A rate above 1 / sqrt(t) does nothing, so late schedules act alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from pydantic import Field

from bptool.ops.jit import kernel
from bptool.optim.base import Array, Epsilon, LearningRate, OptimizerConfig, WeightDecay
from bptool.optim.norm import sum_of_squares
from bptool.optim.tensor_rule import Bench, Shapes, TensorInfo, TensorRule, keep_and_subtract
from bptool.registry import optimizers


class AdafactorConfig(OptimizerConfig):
    """Settings of ``adafactor``."""

    learning_rate: LearningRate = Field(1e-2, description="Largest step relative to the weights.")
    beta2_decay: float = Field(
        -0.8, ge=-10, le=0, description="The newest square weighs step to this power."
    )
    eps1: Epsilon | None = Field(
        None, description="Its square bounds the second moment below; null: machine epsilon."
    )
    eps2: Epsilon = Field(1e-3, description="Least size of weights that steps are relative to.")
    clip: float = Field(
        1.0, ge=1, le=1e6, description="Largest root mean square of a step before the rate."
    )
    weight_decay: WeightDecay = Field(
        0.0, description="Weights shrink by learning rate times this a step."
    )


@kernel
def factored_moments(
    u: Array, g: Array, rows: Array, columns: Array, grad_scale: float, new: float, eps1: float
) -> None:
    """Update the factors ``rows (M,)`` and ``columns (N,)``, and write the step ``u (M, N)``.

    ``rows`` and ``columns`` are the means of squares; ``new`` is what the newest weighs.
    """
    real = g.dtype.type
    m, n = g.shape
    scale_, new_, keep_, eps_ = real(grad_scale), real(new), real(1.0 - new), real(eps1)
    share = new_ / real(m)
    for j in range(n):
        columns[j] *= keep_
    total = 0.0
    for i in range(m):
        square = 0.0
        for j in range(n):
            x = scale_ * g[i, j]
            square += np.float64(x) * np.float64(x)
            columns[j] += share * (x * x)
        rows[i] = keep_ * rows[i] + new_ * real(square / n)
        total += rows[i]
    mean = max(real(total / m), eps_)
    least = eps_ * eps_
    for i in range(m):
        row = rows[i]
        for j in range(n):
            u[i, j] = scale_ * g[i, j] / np.sqrt(max(row * columns[j] / mean, least))


@kernel
def vector_moment(u: Array, g: Array, v: Array, grad_scale: float, new: float, eps1: float) -> None:
    """Update the second moment ``v (N,)``, and write the step ``u (N,)``."""
    real = g.dtype.type
    scale_, new_, keep_ = real(grad_scale), real(new), real(1.0 - new)
    least = real(eps1) * real(eps1)
    for i in range(g.shape[0]):
        x = scale_ * g[i]
        vi = keep_ * v[i] + new_ * (x * x)
        v[i] = vi
        u[i] = x / np.sqrt(max(vi, least))


@optimizers.register("adafactor")
class Adafactor(TensorRule):
    """Factored second moments; see the module's docstring for the rule."""

    Config = AdafactorConfig
    config: AdafactorConfig

    def state_shapes(self, tensor: TensorInfo) -> Shapes:
        if len(tensor.shape) > 1:
            return {"rows": tensor.shape[:1], "columns": tensor.shape[1:]}
        return {"v": tensor.shape}

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
        c, flat = self.config, w.ravel()
        eps1 = float(np.finfo(w.dtype).eps) if c.eps1 is None else c.eps1
        new = float(step) ** c.beta2_decay
        size = math.sqrt(sum_of_squares(flat) / w.size)
        rate = max(c.eps2, size) * min(learning_rate, 1.0 / math.sqrt(step))
        u = bench.scratch[: w.size]
        scale = float(grad_scale)
        if w.ndim > 1:
            matrix = u.reshape(w.shape)
            factored_moments(matrix, g, state["rows"], state["columns"], scale, new, eps1)
        else:
            vector_moment(u, g, state["v"], scale, new, eps1)
        length = math.sqrt(sum_of_squares(u) / w.size)
        factor = rate / max(1.0, length / c.clip)
        keep_and_subtract(flat, u, 1.0 - learning_rate * weight_decay, factor)
