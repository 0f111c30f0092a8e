"""What an adapter of low rank adds to a linear map: y += s (x A^T) B^T.

Shapes: x (N, I), A (r, I), B (O, r), y (N, O); u and du (N, r), of which u = s x A^T is kept.
Without elements in A there is no adapter, and nothing happens.
Backward: du = s dy B,  dx += du A,  dA = du^T x and dB = dy^T u, added where ``adds``.
Every member of a team makes its part of each product; x and dy must be there whole, and y and dx
are so only after a barrier.
Source: Hu et al. 2021, arXiv:2106.09685, equation 3; s = alpha / r, section 4.1.
"""

from __future__ import annotations

from bptool.ops.jit import kernel
from bptool.ops.matmul.share import matmul_share
from bptool.ops.team import barrier


@kernel
def low_rank_forward(engine, y, u, x, a, b, scale, team):  # type: ignore[no-untyped-def]
    if a.size == 0:
        return
    i0, i1, j0, j1 = matmul_share(engine, u, x, False, a, True, False, team)
    s = u.dtype.type(scale)
    for i in range(i0, i1):
        for j in range(j0, j1):
            u[i, j] *= s
    barrier(team)  # u, y: products
    matmul_share(engine, y, u, False, b, True, True, team)


@kernel
def low_rank_backward(engine, dx, da, db, du, dy, x, u, a, b, scale, adds, team):  # type: ignore[no-untyped-def]
    if a.size == 0:
        return
    i0, i1, j0, j1 = matmul_share(engine, du, dy, False, b, False, False, team)
    s = du.dtype.type(scale)
    for i in range(i0, i1):
        for j in range(j0, j1):
            du[i, j] *= s
    barrier(team)  # du, dx: products
    matmul_share(engine, dx, du, False, a, False, True, team)
    matmul_share(engine, da, du, True, x, False, adds, team)
    matmul_share(engine, db, dy, True, u, False, adds, team)
