"""Log-probability of the target token: logp[n] = logits[n, target] - log sum_v exp(logits[n, v]).

Shapes: logits (N, V); targets (N,), -1 where masked; logp, log_sum (N,).
A masked row has logp 0 and no gradient.
Backward, in place: logits[n] becomes dlogits[n] = dlogp[n] (onehot(target) - softmax(logits[n])).
Every objective rests on it: cross-entropy seeds dlogp = -1 / n_targets.
"""

from __future__ import annotations

import math

from bptool.ops.jit import kernel, kernel_without_nan
from bptool.ops.vector_math import exp


@kernel_without_nan
def row_max(x):  # type: ignore[no-untyped-def]
    """Largest element of a row; a NaN comes through in the sum of exponentials that follows."""
    largest = x[0]
    for j in range(1, x.size):
        largest = x[j] if x[j] > largest else largest
    return largest


@kernel
def token_logprob_forward(logp, log_sum, logits, targets):  # type: ignore[no-untyped-def]
    """Saves log_sum, the log of the softmax's denominator."""
    n, n_vocab = logits.shape
    real = logits.dtype.type
    for i in range(n):
        if targets[i] < 0:
            logp[i] = real(0.0)
            log_sum[i] = real(0.0)
            continue
        row = logits[i]
        largest = row_max(row)
        total = real(0.0)
        for j in range(n_vocab):
            total += exp(row[j] - largest)
        log_sum[i] = largest + real(math.log(total))
        logp[i] = row[targets[i]] - log_sum[i]


@kernel
def token_logprob_backward(logits, dlogp, log_sum, targets):  # type: ignore[no-untyped-def]
    """Overwrites logits with their gradient."""
    n, n_vocab = logits.shape
    real = logits.dtype.type
    for i in range(n):
        row = logits[i]
        if targets[i] < 0:
            for j in range(n_vocab):
                row[j] = real(0.0)
            continue
        d = dlogp[i]
        for j in range(n_vocab):
            row[j] = -d * exp(row[j] - log_sum[i])
        row[targets[i]] += d
