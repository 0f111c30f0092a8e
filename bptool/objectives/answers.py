"""Log-probability of each answer: sums[a] = sum of logp[n] over the positions n of answer a.

Shapes: logp (N,); owner (N,), the answer that the target of each position belongs to, -1 for none;
sums (A,) float64. Backward: dlogp[n] = dsums[owner[n]] (overwritten), 0 where there is none.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bptool.objectives.base import Array, accuracy
from bptool.ops.jit import kernel


class Answers(NamedTuple):
    """Answers of one step, and what the reference model says of them."""

    owner: Array
    """(N,) int32: the answer that each position's target belongs to, -1 for none. Of pair p the
    chosen answer is 2p and the rejected one 2p + 1."""
    reference: Array
    """(A,) float64: log-probability of each answer by the reference model."""
    labels: Array = np.zeros(0, np.int8)
    """(A,) for single-sided judgements: 1 desirable, -1 undesirable, 0 only measures the KL."""
    reference_point: float | None = None
    """KTO's z0, where it is held; None to estimate it."""


@kernel
def answer_sums_forward(sums, logp, owner):  # type: ignore[no-untyped-def]
    sums[:] = 0.0
    for i in range(owner.size):
        if owner[i] >= 0:
            sums[owner[i]] += logp[i]


@kernel
def answer_sums_backward(dlogp, dsums, owner):  # type: ignore[no-untyped-def]
    real = dlogp.dtype.type
    for i in range(owner.size):
        dlogp[i] = real(dsums[owner[i]]) if owner[i] >= 0 else real(0.0)


def answer_sums(batch: Answers, logp: Array) -> Array:
    """Log-probability of each answer, (A,)."""
    sums = np.zeros(len(batch.reference))
    answer_sums_forward(sums, logp, batch.owner)
    return sums


def log_ratios(batch: Answers, logp: Array) -> Array:
    """log pi(y | x) - log pi_ref(y | x) of each answer, (A,)."""
    ratios: Array = answer_sums(batch, logp) - batch.reference
    return ratios


def pair_statistics(batch: Answers, logp: Array, beta: float) -> dict[str, float]:
    """Implicit rewards beta (log pi - log pi_ref) of pairs, and how often they are in order."""
    rewards = beta * log_ratios(batch, logp).reshape(-1, 2)
    margins = rewards[:, 0] - rewards[:, 1]
    return {
        "accuracy": accuracy(margins),
        "reward margin": float(np.mean(margins)) if len(margins) else 0.0,
        "chosen reward": float(np.mean(rewards[:, 0])) if len(margins) else 0.0,
        "rejected reward": float(np.mean(rewards[:, 1])) if len(margins) else 0.0,
    }
