"""GRPO: group relative policy optimization, with no value function.

    loss = clipped policy loss (``clipped.py``)
           + kl_weight sum_n weight[n] (exp(ref - logp) - (ref - logp) - 1)
    dloss/dlogp[n] += kl_weight weight[n] (1 - exp(ref - logp))

The advantage of every token of an answer is (reward - mean) / std over the answers to one prompt.
weight[n] = 1 / (answers of the step * tokens of the answer). exp(ref - logp) is taken at most at
e^20, beyond which its part of the gradient is nil, so that nothing overflows.
Shapes: all (N,); rewards (groups, answers of each).
Paper: Shao et al. 2024, "DeepSeekMath", equation 3 with the estimator of the KL in equation 4 (k3
of Schulman 2020, "Approximating KL divergence"), advantages as in its section 4.1.2.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from pydantic import Field

from bptool.config.section import Section
from bptool.objectives.base import Array, Objective
from bptool.objectives.clipped import (
    MAX_LOG_RATIO,
    clip_fraction,
    clipped_policy_backward,
    clipped_policy_forward,
)
from bptool.ops.jit import kernel
from bptool.registry import objectives


class GRPOConfig(Section):
    """Settings of ``grpo``."""

    clip: float = Field(0.2, gt=0, lt=1, description="how far a ratio of probabilities may go")
    kl_weight: float = Field(
        0.04, ge=0, le=1e4, description="of the KL divergence from the reference"
    )


class GroupRollout(NamedTuple):
    """Sampled tokens of one step, each array (N,)."""

    weights: Array
    """1 / (answers * tokens of the answer) where a sampled token is, else 0."""
    old_logp: Array
    """Log-probability when it was sampled."""
    advantages: Array
    reference: Array
    """Log-probability by the reference model."""


@kernel
def kl_forward(logp, reference, weights):  # type: ignore[no-untyped-def]
    """Mean of the estimator k3 by ``weights``."""
    total = 0.0
    for i in range(logp.size):
        if weights[i] != 0.0:
            d = reference[i] - logp[i]
            total += weights[i] * (math.exp(min(d, MAX_LOG_RATIO)) - d - 1.0)
    return total


@kernel
def kl_backward(dlogp, logp, reference, weights, scale):  # type: ignore[no-untyped-def]
    """Adds to dlogp; ``scale`` multiplies the gradient."""
    real = dlogp.dtype.type
    for i in range(logp.size):
        if weights[i] != 0.0:
            d = reference[i] - logp[i]
            ratio = math.exp(d) if d <= MAX_LOG_RATIO else 0.0
            dlogp[i] += real(scale * weights[i] * (1.0 - ratio))


@objectives.register("grpo")
class GRPO(Objective):
    """Clipped policy objective on advantages within groups, and a KL penalty."""

    Config = GRPOConfig
    config: GRPOConfig

    def loss(self, batch: GroupRollout, logp: Array, scores: Array) -> float:
        rollout = batch.old_logp, batch.advantages, batch.weights
        policy = float(clipped_policy_forward(logp, *rollout, self.config.clip))
        kl = float(kl_forward(logp, batch.reference, batch.weights))
        return policy + self.config.kl_weight * kl

    def gradient(
        self, batch: GroupRollout, logp: Array, scores: Array, dlogp: Array, dscores: Array
    ) -> None:
        c = self.config
        clipped_policy_backward(
            dlogp, logp, batch.old_logp, batch.advantages, batch.weights, c.clip
        )
        kl_backward(dlogp, logp, batch.reference, batch.weights, c.kl_weight)

    def statistics(self, batch: GroupRollout, logp: Array, scores: Array) -> dict[str, float]:
        fraction = clip_fraction(logp, batch.old_logp, batch.weights, self.config.clip)
        return {"clip fraction": float(fraction)}


def group_advantages(rewards: Array) -> tuple[Array, float]:
    """(reward - mean) / std of each answer within its group, (groups, answers), and the share of
    groups without variance, which teach nothing: their advantages are 0."""
    off = rewards - rewards.mean(axis=1, keepdims=True)
    std = rewards.std(axis=1, keepdims=True)
    # rewards that differ by rounding alone are equal
    flat = std <= 1e-9 * np.maximum(1.0, np.abs(rewards).max(axis=1, keepdims=True))
    return np.where(flat, 0.0, off / np.where(flat, 1.0, std)), float(np.mean(flat))
