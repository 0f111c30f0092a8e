"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner.

For a matrix (M, N), with bases P (M, M) and Q (N, N), identities for a side above
``max_precondition_dim``:

    G  = P^T g Q
    n <- beta1 n + (1 - beta1) G                  the mean of g, in the basis
    v <- beta2 v + (1 - beta2) G^2
    N  = sqrt(1 - beta2^s) / (1 - beta1^s) n / (sqrt(v) + eps),   s = t - 1
    w <- w - learning_rate P N Q^T
    w <- (1 - learning_rate weight_decay) w
    L <- shampoo_beta L + (1 - shampoo_beta) g g^T,   R <- the same with g^T g
    every ``precondition_frequency`` steps: columns of P in falling order of diag(P^T L P), v's rows
    with them; P <- the orthogonal factor of L P (one step of the power method); so Q from R; and n
    is carried from the old basis into the new one

The first step only measures L and R and takes P and Q from their eigenvectors: no gradient is
projected on a basis of its own. Vectors have no basis and are Adam's, from the second step too.

Defaults, the authors': learning_rate 3e-3, beta1 0.95, beta2 0.95, shampoo_beta as beta2, eps
1e-8, weight_decay 0.01, precondition_frequency 10, max_precondition_dim 10,000. Memory of a matrix
is 2 M N + 2 M^2 + 2 N^2; with a small ``max_precondition_dim`` a large side (a vocabulary) costs
nothing, and its tensor is preconditioned from the other side alone.

Paper: Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", ICLR 2025, algorithms 3
and 4; the first step, the reordering, and the order of step and decay are those of their code.

Where frameworks differ: PyTorch and optax have none. Eigenvectors (in float64) and orthogonal
factors are LAPACK's, by numpy, on one thread: seldom called, and their stability is the library's
business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import threadpoolctl
from pydantic import Field

from bptool.ops.jit import kernel
from bptool.optim.adam import AdamConfig
from bptool.optim.base import Array, Fraction, LearningRate, WeightDecay
from bptool.optim.eigenbasis import SIDES, Basis
from bptool.optim.tensor_rule import (
    Bench,
    Shapes,
    TensorInfo,
    TensorRule,
    carve,
    keep_and_subtract,
    room_for,
)
from bptool.registry import optimizers


class SOAPConfig(AdamConfig):
    """Settings of ``soap``."""

    learning_rate: LearningRate = Field(3e-3, description="Step size, before the schedule.")
    beta1: Fraction = Field(0.95, description="What the mean of the gradient keeps a step.")
    beta2: Fraction = Field(0.95, description="What the mean of its square keeps a step.")
    shampoo_beta: Fraction | None = Field(
        None, description="What the preconditioners keep a step; null: as beta2."
    )
    precondition_frequency: int = Field(
        10, ge=1, le=10**6, description="Steps between new eigenbases."
    )
    max_precondition_dim: int = Field(
        10_000, ge=1, le=10**6, description="Longest side of a matrix that has a basis."
    )
    weight_decay: WeightDecay = Field(
        0.01, description="Weights shrink by learning rate times this a step."
    )


@kernel
def soap_moments(
    d: Array,
    n: Array,
    v: Array,
    beta1: float,
    beta2: float,
    mean_scale: float,
    eps: float,
) -> None:
    """Moments of the projected gradient in ``d``, which the step N overwrites. Arrays ``(n,)``.

    ``mean_scale`` is sqrt(1 - beta2^s) / (1 - beta1^s).
    """
    real = d.dtype.type
    beta1_, new1 = real(beta1), real(1.0 - beta1)
    beta2_, new2 = real(beta2), real(1.0 - beta2)
    mean_scale_, eps_ = real(mean_scale), real(eps)
    for i in range(d.shape[0]):
        ni = beta1_ * n[i] + new1 * d[i]
        vi = beta2_ * v[i] + new2 * (d[i] * d[i])
        n[i] = ni
        v[i] = vi
        d[i] = mean_scale_ * ni / (np.sqrt(vi) + eps_)


@optimizers.register("soap")
class SOAP(TensorRule):
    """Adam in Shampoo's eigenbasis; see the module's docstring for the rule."""

    Config = SOAPConfig
    config: SOAPConfig

    def __init__(self, config: SOAPConfig) -> None:
        super().__init__(config)
        # The workers are the threads; and LAPACK's bits may depend on how many it has.
        threadpoolctl.threadpool_limits(1, user_api="blas")

    def state_shapes(self, tensor: TensorInfo) -> Shapes:
        shapes: Shapes = {"m": tensor.shape, "v": tensor.shape}
        if len(tensor.shape) == 2:
            for side, size in zip(SIDES, tensor.shape, strict=True):
                if size <= self.config.max_precondition_dim:
                    shapes[side] = shapes[f"{side}_basis"] = (size, size)
        return shapes

    def scratch_size(self, tensor: TensorInfo) -> int:
        return room_for([tensor.shape] * 4)

    def cost(self, tensor: TensorInfo) -> float:
        sides = sum(shape[0] for name, shape in self.state_shapes(tensor).items() if name in SIDES)
        return float(tensor.size * (1 + sides / 4))

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
        c, done = self.config, step - 1
        shape = w.shape if w.ndim == 2 else (1, w.size)
        scaled, d, back, room = carve(bench.scratch, [shape] * 4)
        np.multiply(g.reshape(shape), float(grad_scale), out=scaled)
        basis = Basis(state, bench.engine, room)
        if done > 0:
            basis.enter(d, scaled)
            mean_scale = math.sqrt(1.0 - c.beta2**done) / (1.0 - c.beta1**done)
            flat, m, v = d.ravel(), state["m"].ravel(), state["v"].ravel()
            soap_moments(flat, m, v, c.beta1, c.beta2, mean_scale, c.eps)
            basis.leave(back, d)
            keep = 1.0 - learning_rate * weight_decay
            keep_and_subtract(w.ravel(), back.ravel(), keep, keep * learning_rate)
        basis.measure(scaled, c.beta2 if c.shampoo_beta is None else c.shampoo_beta)
        if done == 0:
            basis.begin()
        elif done % c.precondition_frequency == 0:
            basis.turn(state["m"].reshape(shape), state["v"].reshape(shape), d)
