"""What label smoothing and z-loss add to the cross-entropy of a target.

    added[n] = eps (logits[n, target] - mean_v logits[n, v]) + zeta log_sum[n]^2

so that ``-logp + added`` is the cross-entropy with the targets (1 - eps) onehot + eps / V, plus
zeta log^2 Z, Z the softmax's denominator.
Shapes: logits (N, V); targets (N,), -1 where masked; added, log_sum, dlogp (N,). A masked row adds
0 and has no gradient. Both terms weigh as much as the row's cross-entropy does.
Backward, in place of that of ``token_logprob``, dlogp being minus the weight of the row:
    dlogits[n] = dlogp[n] ((1 - eps) onehot(target) + eps / V - (1 + 2 zeta log_sum[n]) softmax)
Sources: Szegedy et al. 2016, arXiv:1512.00567, section 7 (with the uniform distribution over the
whole vocabulary, as there); Chowdhery et al. 2022, arXiv:2204.02311, section 5 (zeta 1e-4).
"""

from __future__ import annotations

from typing import NamedTuple

from bptool.ops.jit import kernel
from bptool.ops.vector_math import exp


class LogitTerms(NamedTuple):
    """Strengths of the two, as compiled code takes them."""

    label_smoothing: float
    z_loss: float


NO_TERMS = LogitTerms(0.0, 0.0)


@kernel
def has_terms(terms):  # type: ignore[no-untyped-def]
    return terms.label_smoothing > 0.0 or terms.z_loss > 0.0


@kernel
def logit_terms_forward(added, log_sum, logits, targets, terms):  # type: ignore[no-untyped-def]
    n, n_vocab = logits.shape
    real = logits.dtype.type
    smoothing, z_loss = real(terms.label_smoothing), real(terms.z_loss)
    for i in range(n):
        if targets[i] < 0:
            added[i] = real(0.0)
            continue
        added[i] = z_loss * log_sum[i] * log_sum[i]
        if smoothing > real(0.0):
            row = logits[i]
            total = real(0.0)
            for j in range(n_vocab):
                total += row[j]
            added[i] += smoothing * (row[targets[i]] - total / real(n_vocab))


@kernel
def logit_terms_backward(logits, dlogp, log_sum, targets, terms):  # type: ignore[no-untyped-def]
    """Overwrites logits with the gradient of cross-entropy and terms together."""
    n, n_vocab = logits.shape
    real = logits.dtype.type
    one = real(1.0)
    smoothing, z_loss = real(terms.label_smoothing), real(terms.z_loss)
    for i in range(n):
        row = logits[i]
        if targets[i] < 0:
            for j in range(n_vocab):
                row[j] = real(0.0)
            continue
        uniform = dlogp[i] * smoothing / real(n_vocab)
        scale = dlogp[i] * (one + real(2.0) * z_loss * log_sum[i])
        for j in range(n_vocab):
            row[j] = uniform - scale * exp(row[j] - log_sum[i])
        row[targets[i]] += dlogp[i] * (one - smoothing)
