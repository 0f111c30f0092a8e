"""Newton-Schulz iteration: the orthogonal factor of a matrix, roughly, by products alone.

    A = X X^T;   X <- a X + (b A + c A A) X

An odd quintic of X, so it acts on each singular value alone, and a, b and c bring those in (0, 1]
to 0.7 to 1.2 in five iterations. Shapes: X (M, N); the smaller side is multiplied.

Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024 (a page, with
code), for the coefficients; Bernstein and Newhouse, "Old Optimizer, New Norm: An Anthology", 2024,
for the iteration in an optimizer.
"""

from __future__ import annotations

from bptool.ops.jit import kernel
from bptool.ops.matmul import MatmulEngine, matmul
from bptool.optim.base import Array

QUINTIC = (3.4445, -4.7750, 2.0315)
"""a, b and c: steep at 0, so that small singular values grow fast."""


@kernel
def newton_schulz(
    engine: MatmulEngine,
    x: Array,
    gram: Array,
    poly: Array,
    next_x: Array,
    n_steps: int,
    a: float,
    b: float,
    c: float,
) -> None:
    """Bring the singular values of ``x (M, N)`` near 1, from a norm of at most 1.

    Works on the smaller side K: ``gram`` and ``poly`` are (K, K), ``next_x`` is (M, N). A matrix
    that is taller than wide is multiplied from the right, which is the transposed iteration.
    """
    real = x.dtype.type
    a_, b_, c_ = real(a), real(b), real(c)
    tall = x.shape[0] > x.shape[1]
    k = gram.shape[0]
    for _ in range(n_steps):
        matmul(engine, gram, x, tall, x, not tall, False)
        matmul(engine, poly, gram, False, gram, False, False)
        for i in range(k):
            for j in range(k):
                poly[i, j] = b_ * gram[i, j] + c_ * poly[i, j]
        if tall:
            matmul(engine, next_x, x, False, poly, False, False)
        else:
            matmul(engine, next_x, poly, False, x, False, False)
        for i in range(x.shape[0]):
            for j in range(x.shape[1]):
                x[i, j] = a_ * x[i, j] + next_x[i, j]
