"""The clipped surrogate of PPO, token by token, which GRPO shares.

    rho  = exp(logp - old),  at most e^20
    loss = - sum_n weight[n] min(rho A, clip(rho, 1 - c, 1 + c) A)
    dloss/dlogp[n] = - weight[n] rho A  where the first is the smaller, else 0

Shapes: logp, old, advantages, weights, dlogp (N,); weights are 0 where there is no token of an
answer, and say what the mean is taken over. Beyond e^20 neither value nor gradient grows, so that
no ratio overflows.
Paper: Schulman et al. 2017, "Proximal policy optimization algorithms", equation 7.
"""

from __future__ import annotations

import math

from bptool.ops.jit import kernel

MAX_LOG_RATIO = 20.0


@kernel
def clipped_policy_forward(logp, old, advantages, weights, clip):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(logp.size):
        if weights[i] != 0.0:
            ratio = math.exp(min(logp[i] - old[i], MAX_LOG_RATIO))
            kept = min(max(ratio, 1.0 - clip), 1.0 + clip)
            total -= weights[i] * min(ratio * advantages[i], kept * advantages[i])
    return total


@kernel
def clipped_policy_backward(dlogp, logp, old, advantages, weights, clip):  # type: ignore[no-untyped-def]
    real = dlogp.dtype.type
    for i in range(logp.size):
        dlogp[i] = real(0.0)
        difference = logp[i] - old[i]
        if weights[i] == 0.0 or difference > MAX_LOG_RATIO:
            continue
        ratio = math.exp(difference)
        kept = min(max(ratio, 1.0 - clip), 1.0 + clip)
        if ratio * advantages[i] <= kept * advantages[i]:
            dlogp[i] = real(-weights[i] * ratio * advantages[i])


@kernel
def clip_fraction(logp, old, weights, clip):  # type: ignore[no-untyped-def]
    """Share of tokens whose ratio is outside the clip, by weight."""
    outside, total = 0.0, 0.0
    for i in range(logp.size):
        total += weights[i]
        ratio = math.exp(min(logp[i] - old[i], MAX_LOG_RATIO))
        if weights[i] != 0.0 and abs(ratio - 1.0) > clip:
            outside += weights[i]
    return outside / total if total > 0.0 else 0.0
