"""A matrix product cut over a team: each member makes some rows or some columns of the result.

Cut by columns, each member packs its own part of op(B), and op(A) is read as it lies; cut by rows,
each would pack all of op(B). So columns are the rule. A transposed A is packed too, and then the
longer side of the result is cut, whose operand is the larger one. Where the result has too few
columns for every member to have a few whole tiles, rows are cut as well.
"""

from __future__ import annotations

from bptool.ops.jit import kernel
from bptool.ops.matmul import matmul
from bptool.ops.matmul.packing import panel_width
from bptool.ops.matmul.target import ROWS
from bptool.ops.team import share

PANELS = 4
"""Tiles that each member must get from a row of the result: fewer are uneven parts."""


@kernel
def part_of_product(out, transpose_a, team):  # type: ignore[no-untyped-def]
    """(first row, stop row, first column, stop column) of this member's part of ``out``."""
    m, n = out.shape
    if team.n == 1:
        return 0, m, 0, n
    panel = panel_width(out)
    if n < PANELS * panel * team.n or (transpose_a and m > n):
        first, stop = share(m, ROWS, team)
        return first, stop, 0, n
    first, stop = share(n, panel, team)
    return 0, m, first, stop


@kernel
def matmul_share(engine, out, a, transpose_a, b, transpose_b, accumulate, team):  # type: ignore[no-untyped-def]
    """This member's part of ``out = op(a) op(b)``; returns it as :func:`part_of_product` does."""
    i0, i1, j0, j1 = part_of_product(out, transpose_a, team)
    if i0 < i1 and j0 < j1:
        n_a, k_a = a.shape
        part_a = a[0:n_a, i0:i1] if transpose_a else a[i0:i1, 0:k_a]
        n_b, k_b = b.shape
        part_b = b[j0:j1, 0:k_b] if transpose_b else b[0:n_b, j0:j1]
        matmul(engine, out[i0:i1, j0:j1], part_a, transpose_a, part_b, transpose_b, accumulate)
    return i0, i1, j0, j1
