"""PPO: the clipped policy objective beside a clipped value loss.

    loss = clipped policy loss (``clipped.py``) + value_weight * value loss
    value loss = 1/2 sum_n weight[n] max((v - R)^2, (clip(v, v_old - c, v_old + c) - R)^2)
    dvalue/dv[n] = weight[n] (v - R)  where the first is not the smaller, else 0

Shapes: all (N,); v are the scalar head's scores, R the returns, v_old the values of the rollout.
Papers: Schulman et al. 2017, "Proximal policy optimization algorithms", equations 7 and 9 (without
the entropy bonus); the clipped value loss is that of the authors' program, described in Engstrom et
al. 2020, "Implementation matters in deep policy gradients", section 3. Advantages are those of
``gae.py``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from pydantic import Field

from bptool.config.section import Section
from bptool.objectives.base import Array, Objective
from bptool.objectives.clipped import (
    clip_fraction,
    clipped_policy_backward,
    clipped_policy_forward,
)
from bptool.ops.jit import kernel
from bptool.registry import objectives


class PPOConfig(Section):
    """Settings of ``ppo``."""

    clip: float = Field(0.2, gt=0, lt=1, description="how far a ratio of probabilities may go")
    value_clip: float = Field(
        0.2, gt=0, le=1e9, description="how far a value may go from the rollout's"
    )
    value_weight: float = Field(
        0.1, ge=0, le=1e4, description="of the value loss beside the policy's"
    )


class Rollout(NamedTuple):
    """Sampled tokens of one step, each array (N,)."""

    weights: Array
    """1 / tokens of the step where a sampled token is, else 0."""
    old_logp: Array
    """Log-probability when it was sampled."""
    advantages: Array
    old_values: Array
    returns: Array


@kernel
def clipped_value_forward(values, old, returns, weights, clip):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(values.size):
        if weights[i] != 0.0:
            off = values[i] - returns[i]
            kept = min(max(values[i], old[i] - clip), old[i] + clip) - returns[i]
            total += weights[i] * max(off * off, kept * kept)
    return 0.5 * total


@kernel
def clipped_value_backward(dvalues, values, old, returns, weights, clip, scale):  # type: ignore[no-untyped-def]
    """``scale`` multiplies the gradient."""
    real = dvalues.dtype.type
    for i in range(values.size):
        dvalues[i] = real(0.0)
        if weights[i] != 0.0:
            off = values[i] - returns[i]
            kept = min(max(values[i], old[i] - clip), old[i] + clip) - returns[i]
            if off * off >= kept * kept:
                dvalues[i] = real(scale * weights[i] * off)


@objectives.register("ppo")
class PPO(Objective):
    """Clipped policy objective and clipped value loss."""

    Config = PPOConfig
    config: PPOConfig
    of_scores = True

    def policy_loss(self, batch: Rollout, logp: Array) -> float:
        """The first part alone."""
        rollout = batch.old_logp, batch.advantages, batch.weights
        return float(clipped_policy_forward(logp, *rollout, self.config.clip))

    def value_loss(self, batch: Rollout, scores: Array) -> float:
        """The second part alone, not weighted."""
        rollout = batch.old_values, batch.returns, batch.weights
        return float(clipped_value_forward(scores, *rollout, self.config.value_clip))

    def loss(self, batch: Rollout, logp: Array, scores: Array) -> float:
        value = self.config.value_weight * self.value_loss(batch, scores)
        return self.policy_loss(batch, logp) + value

    def gradient(
        self, batch: Rollout, logp: Array, scores: Array, dlogp: Array, dscores: Array
    ) -> None:
        c = self.config
        clipped_policy_backward(
            dlogp, logp, batch.old_logp, batch.advantages, batch.weights, c.clip
        )
        clipped_value_backward(
            *(dscores, scores, batch.old_values, batch.returns, batch.weights),
            *(c.value_clip, c.value_weight),
        )

    def statistics(self, batch: Rollout, logp: Array, scores: Array) -> dict[str, float]:
        fraction = clip_fraction(logp, batch.old_logp, batch.weights, self.config.clip)
        return {
            "policy loss": self.policy_loss(batch, logp),
            "value loss": self.value_loss(batch, scores),
            "clip fraction": float(fraction),
            "explained variance": explained_variance(batch, scores),
        }


def explained_variance(batch: Rollout, scores: Array) -> float:
    """1 - Var(returns - values) / Var(returns): 1 perfect, 0 no better than their mean."""
    kept = batch.weights > 0
    returns = batch.returns[kept].astype(np.float64)
    spread = float(np.var(returns)) if returns.size else 0.0
    if spread == 0:
        return 0.0
    return 1.0 - float(np.var(returns - scores[kept])) / spread
