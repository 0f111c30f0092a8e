"""Layer normalisation of rows: y = w * (x - mean) / sqrt(var + eps) + b.

Shapes: x, y (N, C); w (C,); b (C,) or empty for none; mean, rstd (N,) saved for the backward.
The variance is the biased one, eps = 1e-5, as in PyTorch and GPT-2.
Backward, with xhat = (x - mean) rstd and g = w dy:
    dx += rstd (g - mean(g) - xhat mean(g xhat)),  dw += sum dy xhat,  db += sum dy.
dx adds, since x is the residual stream. Rows are apart but for dw and db, which a team sums in
parts, added in the order of the members.
Source: Ba, Kiros, Hinton 2016, arXiv:1607.06450.
"""

from __future__ import annotations

from bptool.ops.jit import kernel
from bptool.ops.team import LINE, barrier, share

EPSILON = 1e-5


@kernel
def layernorm_forward(y, mean, rstd, x, w, b):  # type: ignore[no-untyped-def]
    n, width = x.shape
    real = x.dtype.type
    inverse_width = real(1.0 / width)
    for i in range(n):
        total = real(0.0)
        for j in range(width):
            total += x[i, j]
        m = total * inverse_width
        squares = real(0.0)
        for j in range(width):
            d = x[i, j] - m
            squares += d * d
        r = real(1.0 / (squares * inverse_width + real(EPSILON)) ** 0.5)
        if b.size > 0:
            for j in range(width):
                y[i, j] = (x[i, j] - m) * r * w[j] + b[j]
        else:
            for j in range(width):
                y[i, j] = (x[i, j] - m) * r * w[j]
        mean[i] = m
        rstd[i] = r


@kernel
def layernorm_backward(dx, dw, db, dy, x, mean, rstd, w):  # type: ignore[no-untyped-def]
    n, width = x.shape
    real = x.dtype.type
    inverse_width = real(1.0 / width)
    for i in range(n):
        m = mean[i]
        r = rstd[i]
        sum_g = real(0.0)
        sum_g_xhat = real(0.0)
        for j in range(width):
            g = w[j] * dy[i, j]
            sum_g += g
            sum_g_xhat += g * ((x[i, j] - m) * r)
        mean_g = sum_g * inverse_width
        mean_g_xhat = sum_g_xhat * inverse_width
        for j in range(width):
            xhat = (x[i, j] - m) * r
            dw[j] += dy[i, j] * xhat
            dx[i, j] += r * (w[j] * dy[i, j] - mean_g - xhat * mean_g_xhat)
        if db.size > 0:
            for j in range(width):
                db[j] += dy[i, j]


@kernel
def layernorm_backward_share(dx, dw, db, dy, x, mean, rstd, w, partial, team):  # type: ignore[no-untyped-def]
    """This member's rows of the backward, then its columns of dw and db.

    ``partial`` (n, 2, C) holds the sums of every member but the first; between two calls that use
    the same there must be a barrier. After the call dx is there whole. Without elements in dw its
    sums are not wanted, nor are those of db.
    """
    first, stop = share(x.shape[0], 1, team)
    own = slice(first, stop)
    own_dw, own_db = dw, db
    if team.index > 0 or dw.size == 0:
        partial[team.index] = x.dtype.type(0.0)
        own_dw, own_db = partial[team.index, 0], partial[team.index, 1, : db.size]
    layernorm_backward(dx[own], own_dw, own_db, dy[own], x[own], mean[own], rstd[own], w)
    barrier(team)  # every member's sums
    first, stop = share(dw.size, LINE, team)
    for k in range(1, team.n):
        for j in range(first, stop):
            dw[j] += partial[k, 0, j]
        for j in range(first, min(stop, db.size)):
            db[j] += partial[k, 1, j]
