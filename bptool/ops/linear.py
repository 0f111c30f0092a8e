"""Affine map of rows: y = x W^T + b.

Shapes: x (N, I), W (O, I), b (O,) or empty for none, y (N, O).
Backward: dx = dy W (overwritten), dW = dy^T x, added where ``adds``, db += sum of dy over rows; dW
or db without elements is not wanted.
Every member of a team makes its part of each product; x and dy must be there whole.
"""

from __future__ import annotations

from bptool.ops.jit import kernel
from bptool.ops.matmul.share import matmul_share
from bptool.ops.team import LINE, share


@kernel
def linear_forward(engine, y, x, w, b, team):  # type: ignore[no-untyped-def]
    i0, i1, j0, j1 = matmul_share(engine, y, x, False, w, True, False, team)
    if b.size > 0:
        for i in range(i0, i1):
            for j in range(j0, j1):
                y[i, j] += b[j]


@kernel
def linear_backward(engine, dx, dw, db, dy, x, w, adds, team):  # type: ignore[no-untyped-def]
    matmul_share(engine, dx, dy, False, w, False, False, team)
    linear_backward_parameters(engine, dw, db, dy, x, adds, team)


@kernel
def linear_backward_parameters(engine, dw, db, dy, x, adds, team):  # type: ignore[no-untyped-def]
    """The parameters' part alone, where x needs no gradient."""
    matmul_share(engine, dw, dy, True, x, False, adds, team)
    if db.size > 0:
        first, stop = share(db.size, LINE, team)
        for i in range(dy.shape[0]):
            for j in range(first, stop):
                db[j] += dy[i, j]
