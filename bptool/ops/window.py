"""Sliding window of embeddings: x[n] = (E[token[t-W+1]], ..., E[token[t]]) for row n = (b, t).

Shapes: tokens (B, T) integers in [0, V); E (V+1, C), its last row standing for "before the
start"; x (B*T, W*C); starts (B, T) or (0, 0), see ``documents.py``.
Backward: dE[token] += the matching part of dx.
A team cuts the forward by rows and the backward by columns of E, since rows may share a token.
Source: Bengio, Ducharme, Vincent, Jauvin 2003, "A neural probabilistic language model", JMLR 3.
"""

from __future__ import annotations

from bptool.ops.documents import document_start
from bptool.ops.jit import kernel
from bptool.ops.team import LINE, share


@kernel
def window_forward(x, tokens, starts, e, team):  # type: ignore[no-untyped-def]
    n_time = tokens.shape[1]
    width = e.shape[1]
    n_window = x.shape[1] // width
    first, stop = share(x.shape[0], 1, team)
    for row in range(first, stop):
        i, t = row // n_time, row % n_time
        start = document_start(starts, i, t)
        for w in range(n_window):
            source = t - n_window + 1 + w
            token = tokens[i, source] if source >= start else e.shape[0] - 1
            for j in range(width):
                x[row, w * width + j] = e[token, j]


@kernel
def window_backward(de, dx, tokens, starts, team):  # type: ignore[no-untyped-def]
    n_batch, n_time = tokens.shape
    width = de.shape[1]
    n_window = dx.shape[1] // width
    first, stop = share(width, LINE, team)
    for i in range(n_batch):
        for t in range(n_time):
            start = document_start(starts, i, t)
            for w in range(n_window):
                source = t - n_window + 1 + w
                token = tokens[i, source] if source >= start else de.shape[0] - 1
                for j in range(first, stop):
                    de[token, j] += dx[i * n_time + t, w * width + j]
