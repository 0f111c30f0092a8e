"""Stochastic depth: a residual branch is left out of some sequences: y = x b / (1 - p).

Shapes: x (B*T, C), in place; row i of x is row ``row0 + i`` of the whole batch, of sequence
``(row0 + i) // T``. b is 0 with probability p and 1 otherwise, one number a sequence and branch,
through Philox a function of (seed, step, branch, sequence): the backward makes it anew, and it is
the same however the batch is cut.
The scale 1 / (1 - p) in training leaves nothing to do in evaluation. Huang et al. draw one b for a
whole mini-batch and multiply by 1 - p in evaluation instead; a draw a sequence has the same
expectation and less noise in the gradient, and no branch's product gets cheaper by it.
Backward: dx = dy b / (1 - p), the same map; ``stochastic_depth`` serves as both.
Source: Huang, Sun, Liu, Sedra, Weinberger 2016, arXiv:1603.09382, equations 2 to 5.
"""

from __future__ import annotations

import numpy as np

from bptool.ops.jit import kernel
from bptool.ops.philox import philox

UNIFORM, LINEAR = range(2)
RULES = {"uniform": UNIFORM, "linear": LINEAR}
"""How p grows with the layer: not at all, or in proportion up to the last (their equation 4)."""
_SITE = np.uint32(0x8000_0000)
"""Apart from every counter of ``dropout``, whose sites are below 2^15."""


@kernel
def depth_rate(rate, rule, layer, n_layer):  # type: ignore[no-untyped-def]
    """Probability that the branches of ``layer``, from 0, are left out."""
    return rate * (layer + 1) / n_layer if rule == LINEAR else rate


@kernel
def stochastic_depth(x, p, key, branch, row0, n_time):  # type: ignore[no-untyped-def]
    """Forward and backward alike, in place; nothing to do for p = 0."""
    if p <= 0.0:
        return
    zero, scale = x.dtype.type(0.0), x.dtype.type(1.0 / (1.0 - p))
    k0, k1 = np.uint32(key.seed), np.uint32(key.seed >> 32)
    drawn, factor = -1, zero
    for i in range(x.shape[0]):
        sequence = (row0 + i) // n_time
        if sequence != drawn:
            word, _, _, _ = philox(
                *(np.uint32(sequence), np.uint32(sequence >> 32), np.uint32(key.step)),
                *(np.uint32(_SITE | np.uint32(branch)), k0, k1),
            )
            drawn, factor = sequence, zero if word < p * 4294967296.0 else scale
        for j in range(x.shape[1]):
            x[i, j] *= factor
