"""Clipping of a gradient by value and by units; that by its norm is in ``norm.py``.

By value, each element alone (PyTorch's ``clip_grad_value_``):

    g_i <- max(-largest, min(largest, g_i))

Adaptive, each unit beside its own weights (Brock et al. 2021, arXiv:2102.06171, equation 3):

    G_u <- G_u min(1, ratio max(||W_u||, eps) / ||G_u||),    eps = 1e-3

A unit is a row of a matrix (outputs, inputs), the weights into one output, or a whole vector: a
bias, which starts at 0, is clipped to a norm of ratio eps. The authors' final layer is not clipped;
here neither are the other tables (embeddings, positions), since with tied weights the embedding is
the final layer. The paper's ``ratio`` is 0.01 to 0.16, smaller for larger batches.
"""

from __future__ import annotations

import math

import numpy as np

from bptool.ops.jit import kernel
from bptool.optim.base import Array

EPS = 1e-3


@kernel
def scale_gradient(g: Array, scale: float) -> None:
    """g <- scale g. Array ``(n,)``."""
    scale_ = g.dtype.type(scale)
    for i in range(g.shape[0]):
        g[i] *= scale_


@kernel
def clip_by_value(g: Array, largest: float) -> None:
    """Array ``(n,)``."""
    high = g.dtype.type(largest)
    low = -high
    for i in range(g.shape[0]):
        value = g[i]
        value = high if value > high else value
        g[i] = low if value < low else value


@kernel
def clip_units(g: Array, w: Array, ratio: float, eps: float) -> None:
    """Arrays ``(units, width)``; ``w`` is left as it is. Norms are summed in float64."""
    for i in range(g.shape[0]):
        gradient, weights = g[i], w[i]
        g_squares, w_squares = 0.0, 0.0
        for j in range(gradient.size):
            g_squares += np.float64(gradient[j]) * np.float64(gradient[j])
            w_squares += np.float64(weights[j]) * np.float64(weights[j])
        most = ratio * max(math.sqrt(w_squares), eps)
        norm = math.sqrt(g_squares)
        if norm > most:
            scale = g.dtype.type(most / norm)
            for j in range(gradient.size):
                gradient[j] *= scale
