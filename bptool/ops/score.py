"""A scalar head beside the logits: score[n] = x[n] . w + b.

Shapes: x (N, C), w (C,), b (1,), score (N,).
Backward: dx[n] += dscore[n] w (adds, since the logits have a part in it), dw += dscore^T x,
db += sum of dscore. A team cuts dx by rows and dw by columns; dx must be there whole.
Reward models and value functions read it: Ouyang et al. 2022, arXiv:2203.02155, section 3.5.
"""

from __future__ import annotations

from bptool.ops.jit import kernel
from bptool.ops.team import LINE, share


@kernel
def score_forward(score, x, w, b):  # type: ignore[no-untyped-def]
    real = score.dtype.type
    for i in range(x.shape[0]):
        total = real(0.0)
        for j in range(w.size):
            total += x[i, j] * w[j]
        score[i] = total + b[0]


@kernel
def score_backward(dx, dw, db, dscore, x, w, team):  # type: ignore[no-untyped-def]
    first, stop = share(dx.shape[0], 1, team)
    for i in range(first, stop):
        for j in range(w.size):
            dx[i, j] += dscore[i] * w[j]
    first, stop = share(w.size, LINE, team)
    for i in range(x.shape[0]):
        for j in range(first, stop):
            dw[j] += dscore[i] * x[i, j]
    if team.index == 0:
        for i in range(x.shape[0]):
            db[0] += dscore[i]
