"""Muon: momentum whose matrix is made orthogonal before each step; AdamW for all else.

For a matrix (M, N) of the hidden layers:

    B <- momentum B + (1 - momentum) g
    U  = (1 - momentum) g + momentum B   with Nesterov, B without
    X  = U / max(|U|, eps)                        (Frobenius norm; transposed where M > N)
    ns_steps times:  A = X X^T;  X <- a X + (b A + c A A) X
    w <- (1 - learning_rate weight_decay) w
    w <- w - learning_rate s X

which makes every singular value of the step about 1 (0.7 to 1.2). ``adjust`` chooses the scale s:
``match_rms_adamw`` is 0.2 sqrt(max(M, N)), so that a step is about as long as AdamW's and one rate
serves both; ``original`` is sqrt(max(1, M / N)).

Embeddings, positions, output weights, biases and norms go to AdamW, as the author recommends: the
rows of a table are separate vectors, of which a batch touches some. Its learning rate is
``adamw_factor`` times that of the matrices; with ``original``, 0.02 and a factor of 0.015 are the
author's. The matrices of a layer are taken as they are stored: queries, keys and values are one.

Defaults, as in PyTorch (where ``adjust`` is ``original``): learning_rate 1e-3, momentum 0.95,
nesterov, weight_decay 0.1, eps 1e-7, 5 iterations with a, b, c of ``newton_schulz``.
AdamW's: beta1 0.9, beta2 0.95, adamw_eps 1e-8 (the author's betas).

Sources: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024 (a page,
with code); ``match_rms_adamw``: Liu et al., "Muon is Scalable for LLM Training", 2025, section 2.2.

Where frameworks differ: PyTorch takes matrices only and multiplies them in bfloat16. Code that
sums the momentum without ``1 - momentum`` makes the same steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from bptool.ops.jit import kernel
from bptool.optim.adam import adam_update
from bptool.optim.base import Array, Epsilon, Fraction, LearningRate, OptimizerConfig, WeightDecay
from bptool.optim.newton_schulz import QUINTIC, newton_schulz
from bptool.optim.norm import sum_of_squares
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


class MuonConfig(OptimizerConfig):
    """Settings of ``muon``."""

    learning_rate: LearningRate = Field(1e-3, description="Step size, before the schedule.")
    momentum: Fraction = Field(0.95, description="What the mean of the gradient keeps a step.")
    nesterov: bool = Field(True, description="Step by the mean after the next gradient like g.")
    ns_steps: int = Field(5, ge=1, le=99, description="Newton-Schulz iterations.")
    eps: Epsilon = Field(1e-7, description="Least norm that a matrix is divided by.")
    adjust: Literal["match_rms_adamw", "original"] = Field(
        "match_rms_adamw", description="How the step's length follows from the matrix's shape."
    )
    weight_decay: WeightDecay = Field(
        0.1, description="Weights shrink by learning rate times this a step."
    )
    adamw_factor: float = Field(
        1.0, gt=0, le=1e3, description="AdamW's learning rate in multiples of the matrices'."
    )
    beta1: Fraction = Field(0.9, description="AdamW: what the mean of the gradient keeps.")
    beta2: Fraction = Field(0.95, description="AdamW: what the mean of its square keeps.")
    adamw_eps: Epsilon = Field(1e-8, description="AdamW: added to the second moment's root.")


@kernel
def muon_momentum(
    u: Array, b: Array, g: Array, grad_scale: float, momentum: float, nesterov: bool
) -> None:
    """The momentum ``b`` and what is made orthogonal, ``u``. Arrays ``(n,)``."""
    real = g.dtype.type
    scale_, momentum_, new_ = real(grad_scale), real(momentum), real(1.0 - momentum)
    for i in range(g.shape[0]):
        gi = scale_ * g[i]
        bi = momentum_ * b[i] + new_ * gi
        b[i] = bi
        u[i] = new_ * gi + momentum_ * bi if nesterov else bi


def is_hidden_matrix(tensor: TensorInfo) -> bool:
    """Whether a tensor is made orthogonal, and not AdamW's."""
    return len(tensor.shape) == 2 and not tensor.table


@optimizers.register("muon")
class Muon(TensorRule):
    """Orthogonal momentum; see the module's docstring for the rule."""

    Config = MuonConfig
    config: MuonConfig

    def state_shapes(self, tensor: TensorInfo) -> Shapes:
        if is_hidden_matrix(tensor):
            return {"momentum": tensor.shape}
        return {"m": tensor.shape, "v": tensor.shape}

    def _scratch(self, tensor: TensorInfo) -> list[tuple[int, ...]]:
        small = min(tensor.shape)
        return [tensor.shape, tensor.shape, (small, small), (small, small)]

    def scratch_size(self, tensor: TensorInfo) -> int:
        return room_for(self._scratch(tensor)) if is_hidden_matrix(tensor) else 0

    def cost(self, tensor: TensorInfo) -> float:
        if not is_hidden_matrix(tensor):
            return float(tensor.size)
        return float(tensor.size * (1 + self.config.ns_steps * min(tensor.shape) / 8))

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
        c = self.config
        if not is_hidden_matrix(tensor):
            rate = learning_rate * c.adamw_factor
            adam_update(
                w.ravel(),
                g.ravel(),
                state["m"].ravel(),
                state["v"].ravel(),
                float(grad_scale),
                0.0,
                1.0 - rate * weight_decay,
                c.beta1,
                c.beta2,
                rate / (1.0 - c.beta1**step),
                1.0 / math.sqrt(1.0 - c.beta2**step),
                c.adamw_eps,
            )
            return
        x, next_x, gram, poly = carve(bench.scratch, self._scratch(tensor))
        flat, momentum = x.ravel(), state["momentum"].ravel()
        muon_momentum(flat, momentum, g.ravel(), float(grad_scale), c.momentum, c.nesterov)
        flat *= 1.0 / max(math.sqrt(sum_of_squares(flat)), c.eps)
        newton_schulz(bench.engine, x, gram, poly, next_x, c.ns_steps, *QUINTIC)
        rows, columns = tensor.shape
        length = math.sqrt(max(1.0, rows / columns))
        if c.adjust == "match_rms_adamw":
            length = 0.2 * math.sqrt(max(rows, columns))
        keep_and_subtract(
            w.ravel(), flat, 1.0 - learning_rate * weight_decay, learning_rate * length
        )
