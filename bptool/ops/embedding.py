"""Token and position embedding: x[b, t] = E[token[b, t]] + P[t].

Shapes: tokens (B, T) integers in [0, V), E (V, C), P (at least T, C), x (B*T, C).
Backward: dE[token] += dx, dP[t] += dx; rows that share a token add up.
Source: Vaswani et al. 2017, section 3.4; learned positions as in GPT-2 (Radford et al. 2019).
"""

from __future__ import annotations

from bptool.ops.jit import kernel


@kernel
def embedding_forward(x, tokens, e, p, position0):  # type: ignore[no-untyped-def]
    """``position0`` is the position of the first column of ``tokens``."""
    n_batch, n_time = tokens.shape
    width = e.shape[1]
    for i in range(n_batch):
        for t in range(n_time):
            token = tokens[i, t]
            row = i * n_time + t
            for j in range(width):
                x[row, j] = e[token, j] + p[position0 + t, j]


@kernel
def embedding_backward(de, dp, dx, tokens):  # type: ignore[no-untyped-def]
    n_batch, n_time = tokens.shape
    width = de.shape[1]
    for i in range(n_batch):
        for t in range(n_time):
            token = tokens[i, t]
            row = i * n_time + t
            for j in range(width):
                de[token, j] += dx[row, j]
                dp[t, j] += dx[row, j]
