"""Gated activation of an MLP: y = f(a) * b, for any f of ``activations.py``.

Shapes: x (N, 2 F), its columns a, then b; y, dy (N, F); dx (N, 2 F); slope (N, F) not wanted.
Backward, which makes f(a) and f'(a) anew, so that x is all that is saved:
    da = dy b f'(a),  db = dy f(a).     dx is overwritten.
A row of x is seen as (2, F), so that its halves are contiguous arrays.
Source: Shazeer 2020, arXiv:2002.05202, equation 6 (SwiGLU for f = silu, GEGLU for f = gelu).
"""

from __future__ import annotations

from bptool.ops.activations import activation_forward
from bptool.ops.jit import kernel


@kernel
def gate_forward(kind, y, slope, x):  # type: ignore[no-untyped-def]
    n, width = y.shape
    halves = x.reshape(n, 2, width)
    for i in range(n):
        activation_forward(kind, y[i : i + 1], slope[i : i + 1], halves[i][0:1])
        for j in range(width):
            y[i, j] *= halves[i, 1, j]


@kernel
def gate_backward(kind, dx, dy, x):  # type: ignore[no-untyped-def]
    n, width = dy.shape
    halves, d_halves = x.reshape(n, 2, width), dx.reshape(n, 2, width)
    for i in range(n):
        da, db = d_halves[i][0:1], d_halves[i][1:2]
        activation_forward(kind, db, da, halves[i][0:1])  # f(a) and f'(a), for now
        for j in range(width):
            d = dy[i, j]
            da[0, j] *= d * halves[i, 1, j]
            db[0, j] *= d


@kernel
def gate_decode(y, x, n, n_hidden, first, stop):  # type: ignore[no-untyped-def]
    """The columns from ``first`` to ``stop`` of y = f(a), which is there already, times b, for
    ``n`` rows of x, whose b begins at column ``n_hidden``."""
    for i in range(n):
        for j in range(first, min(stop, n_hidden)):
            y[i, j] *= x[i, n_hidden + j]
