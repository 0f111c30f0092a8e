"""L1: a penalty on the absolute weights, which drives many of them to (nearly) zero.

    penalty  = strength sum_i |w_i|
    gradient = strength sign(w_i),    0 at w_i = 0

0 is the subgradient of least size at the kink, and the one PyTorch's ``abs`` gives.

Paper: Tibshirani, "Regression Shrinkage and Selection via the Lasso", JRSS B 1996. Subgradient
steps swing about zero rather than stay on it; weights that are exactly zero need a proximal step.
"""

from __future__ import annotations

import numpy as np

from bptool.ops.jit import kernel
from bptool.registry import regularizers
from bptool.regularizers.base import Array, Penalty, PenaltyConfig


class L1Config(PenaltyConfig):
    """Settings of ``l1``."""


@kernel
def l1_penalty_and_gradient(w: Array, g: Array, strength: float) -> float:
    """One fused pass over arrays ``(n,)``; the sum is kept in float64."""
    real = w.dtype.type
    zero, up = real(0.0), real(strength)
    total = 0.0
    for i in range(w.shape[0]):
        wi = w[i]
        total += np.float64(abs(wi))
        g[i] += (up if wi > zero else zero) - (up if wi < zero else zero)
    return strength * total


@regularizers.register("l1")
class L1(Penalty):
    """Penalty ``strength * sum |w|``."""

    Config = L1Config
    config: L1Config

    def penalty_and_gradient(self, w: Array, g: Array) -> float:
        return float(l1_penalty_and_gradient(w, g, self.config.strength))
