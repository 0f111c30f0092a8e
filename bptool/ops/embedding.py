"""Token and position embedding: x[b, t] = E[token[b, t]] + P[t - start[b, t]].

Shapes: tokens (B, T) integers in [0, V), E (V, C), P (at least T, C) or without elements for none,
x (B*T, C); starts (B, T) or (0, 0) for start = 0, see ``documents.py``.
Backward: dE[token] += dx, dP[t - start] += dx; rows that share a token add up. One without elements
is not wanted.
A team cuts the forward by rows and the backward by columns, since rows may share a token.
Source: Vaswani et al. 2017, section 3.4; learned positions as in GPT-2 (Radford et al. 2019).
"""

from __future__ import annotations

from bptool.ops.documents import document_start
from bptool.ops.jit import kernel
from bptool.ops.team import LINE, share


@kernel
def embedding_forward(x, tokens, starts, e, p, team):  # type: ignore[no-untyped-def]
    n_time = tokens.shape[1]
    first, stop = share(x.shape[0], 1, team)
    for row in range(first, stop):
        i, t = row // n_time, row % n_time
        token, position = tokens[i, t], t - document_start(starts, i, t)
        if p.size > 0:
            for j in range(e.shape[1]):
                x[row, j] = e[token, j] + p[position, j]
        else:
            for j in range(e.shape[1]):
                x[row, j] = e[token, j]


@kernel
def embedding_backward(de, dp, dx, tokens, starts, team):  # type: ignore[no-untyped-def]
    n_batch, n_time = tokens.shape
    first, stop = share(dx.shape[1], LINE, team)
    for i in range(n_batch):
        for t in range(n_time):
            token, position = tokens[i, t], t - document_start(starts, i, t)
            row = i * n_time + t
            if de.size > 0:
                for j in range(first, stop):
                    de[token, j] += dx[row, j]
            if dp.size > 0:
                for j in range(first, stop):
                    dp[position, j] += dx[row, j]
