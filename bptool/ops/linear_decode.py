"""An affine map of a few rows, cut by columns over a team: y = x W^T + b, or y += x W^T + b.

Shapes: x (N, I), W (O, I), b (O,) or empty for none, y (N, at least O). Each member writes the
columns of its share; ``barrier`` before another's are read. W is read as it lies in memory.
"""

from __future__ import annotations

from bptool.ops.jit import kernel
from bptool.ops.matmul.dot_rows import dot_rows
from bptool.ops.team import share

COLUMNS = 64
"""Shares are cut at multiples: whole cache lines, and chunks of an activation (``CHUNK``)."""


@kernel
def linear_decode(team, y, x, n, w, b, accumulate):  # type: ignore[no-untyped-def]
    """The first n rows; returns the columns (first, stop) of this member."""
    first, stop = share(w.shape[0], COLUMNS, team)
    dot_rows(y, x, w, accumulate, n, first, stop, w.shape[1])
    if b.size > 0:
        for i in range(n):
            row = y[i]
            for j in range(first, stop):
                row[j] += b[j]
    return first, stop
