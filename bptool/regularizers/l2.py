"""L2: a penalty on the squared weights, which keeps them small.

    penalty  = strength / 2 sum_i w_i^2
    gradient = strength w_i

The half makes ``strength`` the same number as the L2 ``weight_decay`` of ``sgd``; Keras's
``regularizers.L2`` has no half. With adaptive rules (Adam) the penalty's gradient is divided by
the gradient's size like the rest; decay that is not is ``adamw``'s.

Paper: Hoerl and Kennard, "Ridge Regression", Technometrics 1970; Krogh and Hertz, "A Simple Weight
Decay Can Improve Generalization", NIPS 1991.
"""

from __future__ import annotations

import numpy as np

from bptool.ops.jit import kernel
from bptool.registry import regularizers
from bptool.regularizers.base import Array, Penalty, PenaltyConfig


class L2Config(PenaltyConfig):
    """Settings of ``l2``."""


@kernel
def l2_penalty_and_gradient(w: Array, g: Array, strength: float) -> float:
    """One fused pass over arrays ``(n,)``; the sum is kept in float64."""
    strength_ = w.dtype.type(strength)
    total = 0.0
    for i in range(w.shape[0]):
        value = np.float64(w[i])
        total += value * value
        g[i] += strength_ * w[i]
    return 0.5 * strength * total


@regularizers.register("l2")
class L2(Penalty):
    """Penalty ``strength / 2 * sum w^2``."""

    Config = L2Config
    config: L2Config

    def penalty_and_gradient(self, w: Array, g: Array) -> float:
        return float(l2_penalty_and_gradient(w, g, self.config.strength))
