"""Affine map of rows: y = x W^T + b.

Shapes: x (N, I), W (O, I), b (O,) or empty for none, y (N, O).
Backward: dx = dy W (overwritten), dW += dy^T x, db += sum of dy over rows.
"""

from __future__ import annotations

from bptool.ops.jit import kernel
from bptool.ops.matmul import matmul


@kernel
def add_rows(y, b):  # type: ignore[no-untyped-def]
    """y[i] += b for every row."""
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            y[i, j] += b[j]


@kernel
def sum_rows(db, dy):  # type: ignore[no-untyped-def]
    """db += sum of the rows of dy."""
    for i in range(dy.shape[0]):
        for j in range(dy.shape[1]):
            db[j] += dy[i, j]


@kernel
def linear_forward(engine, y, x, w, b):  # type: ignore[no-untyped-def]
    matmul(engine, y, x, False, w, True, False)
    if b.size > 0:
        add_rows(y, b)


@kernel
def linear_backward(engine, dx, dw, db, dy, x, w):  # type: ignore[no-untyped-def]
    matmul(engine, dx, dy, False, w, False, False)
    linear_backward_parameters(engine, dw, db, dy, x)


@kernel
def linear_backward_parameters(engine, dw, db, dy, x):  # type: ignore[no-untyped-def]
    """The parameters' part alone, where x needs no gradient."""
    matmul(engine, dw, dy, True, x, False, True)
    if db.size > 0:
        sum_rows(db, dy)
