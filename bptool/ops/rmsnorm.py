"""Root-mean-square normalization of rows: y = w * x / sqrt(mean(x^2) + eps).

Shapes: x, y (N, C); w (C,); rstd (N,) saved for the backward; eps is a number.
Backward, with xhat = x rstd and g = w dy:
    dx += rstd (g - xhat mean(g xhat)),  dw += sum dy xhat.
dx adds, since x is the residual stream. Rows are apart but for dw, which a team sums in parts,
added in the order of the members.
Source: Zhang, Sennrich 2019, arXiv:1910.07467, equation 4.
"""

from __future__ import annotations

from bptool.ops.jit import kernel
from bptool.ops.team import LINE, barrier, share


@kernel
def rmsnorm_row(y, x, w, eps):  # type: ignore[no-untyped-def]
    """One row (C,); returns rstd."""
    real = x.dtype.type
    squares = real(0.0)
    for j in range(x.size):
        squares += x[j] * x[j]
    r = real(1.0 / (squares * real(1.0 / x.size) + real(eps)) ** 0.5)
    for j in range(x.size):
        y[j] = x[j] * r * w[j]
    return r


@kernel
def rmsnorm_forward(y, rstd, x, w, eps):  # type: ignore[no-untyped-def]
    for i in range(x.shape[0]):
        rstd[i] = rmsnorm_row(y[i], x[i], w, eps)


@kernel
def rmsnorm_backward_row(dw, dy, x, r, w):  # type: ignore[no-untyped-def]
    """Adds to dw (C,); returns mean(g xhat), with which a caller makes dx."""
    dot = x.dtype.type(0.0)
    for j in range(x.size):
        xhat = x[j] * r
        dot += w[j] * dy[j] * xhat
        dw[j] += dy[j] * xhat
    return dot * x.dtype.type(1.0 / x.size)


@kernel
def rmsnorm_backward(dx, dw, dy, x, rstd, w):  # type: ignore[no-untyped-def]
    for i in range(x.shape[0]):
        r = rstd[i]
        mean = rmsnorm_backward_row(dw, dy[i], x[i], r, w)
        for j in range(x.shape[1]):
            dx[i, j] += r * (w[j] * dy[i, j] - x[i, j] * r * mean)


@kernel
def rmsnorm_backward_share(dx, dw, dy, x, rstd, w, partial, team):  # type: ignore[no-untyped-def]
    """This member's rows of the backward, then its columns of dw.

    ``partial`` (n, 2, C) holds the sums of every member but the first; between two calls that use
    the same there must be a barrier. After the call dx is there whole. Without elements in dw its
    sums are not wanted.
    """
    first, stop = share(x.shape[0], 1, team)
    own = slice(first, stop)
    own_dw = dw
    if team.index > 0 or dw.size == 0:
        partial[team.index] = x.dtype.type(0.0)
        own_dw = partial[team.index, 0]
    rmsnorm_backward(dx[own], own_dw, dy[own], x[own], rstd[own], w)
    barrier(team)  # every member's sums
    first, stop = share(dw.size, LINE, team)
    for k in range(1, team.n):
        for j in range(first, stop):
            dw[j] += partial[k, 0, j]
