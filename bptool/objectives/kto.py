"""KTO: Kahneman-Tversky optimization, from answers that are judged one by one.

    r[a] = log pi(a) - log pi_ref(a)
    v[a] = lambda_D sigmoid(beta (r[a] - z0))  for a desirable answer (label 1)
           lambda_U sigmoid(beta (z0 - r[a]))  for an undesirable one (label -1)
    loss = mean over judged answers of  lambda - v
    z0   = max(0, mean of r over answers with label 0), which no gradient goes through
    dloss/dr[a] = -label lambda beta s (1 - s) / A_judged,  s the sigmoid above

Answers with label 0 stand behind prompts that are not their own; they estimate the KL divergence
from the reference and are not learnt from.
Shapes: sums, reference, dsums, labels (A,).
Paper: Ethayarajh et al. 2024, "KTO: model alignment as prospect theoretic optimization", equation 8
(7 in its first version) and the estimate of z0 below it.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from bptool.config.section import Section
from bptool.objectives.answers import Answers, answer_sums, answer_sums_backward, log_ratios
from bptool.objectives.base import Array, Objective, mean
from bptool.objectives.sigmoid import sigmoid
from bptool.ops.jit import kernel
from bptool.registry import objectives


class KTOConfig(Section):
    """Settings of ``kto``."""

    beta: float = Field(
        0.1, gt=0, le=1e4, description="how closely the model is held to the reference"
    )
    desirable_weight: float = Field(1.0, ge=0, le=1e4, description="lambda of desirable answers")
    undesirable_weight: float = Field(
        1.0, ge=0, le=1e4, description="lambda of undesirable answers"
    )


@kernel
def kto_forward(sums, reference, labels, z0, beta, desirable, undesirable):  # type: ignore[no-untyped-def]
    total, n_judged = 0.0, 0
    for a in range(sums.size):
        if labels[a] != 0:
            weight = desirable if labels[a] > 0 else undesirable
            s = sigmoid(labels[a] * beta * (sums[a] - reference[a] - z0))
            total += weight * (1.0 - s)
            n_judged += 1
    return total / max(n_judged, 1)


@kernel
def kto_backward(dsums, sums, reference, labels, z0, beta, desirable, undesirable):  # type: ignore[no-untyped-def]
    n_judged = 0
    for a in range(sums.size):
        n_judged += 1 if labels[a] != 0 else 0
    for a in range(sums.size):
        dsums[a] = 0.0
        if labels[a] != 0:
            weight = desirable if labels[a] > 0 else undesirable
            h = labels[a] * beta * (sums[a] - reference[a] - z0)
            dsums[a] = -labels[a] * weight * beta * sigmoid(h) * sigmoid(-h) / n_judged


@objectives.register("kto")
class KTO(Objective):
    """One minus the value, as prospect theory has it, of each judged answer."""

    Config = KTOConfig
    config: KTOConfig

    def reference_point(self, batch: Answers, logp: Array) -> float:
        """z0 of a batch."""
        if batch.reference_point is not None:
            return batch.reference_point
        return max(0.0, mean(log_ratios(batch, logp)[batch.labels == 0]))

    def _numbers(self, batch: Answers, logp: Array) -> tuple[float, float, float, float]:
        c = self.config
        weights = c.beta, c.desirable_weight, c.undesirable_weight
        return (self.reference_point(batch, logp), *weights)

    def loss(self, batch: Answers, logp: Array, scores: Array) -> float:
        numbers = self._numbers(batch, logp)
        sums = answer_sums(batch, logp)
        return float(kto_forward(sums, batch.reference, batch.labels, *numbers))

    def gradient(
        self, batch: Answers, logp: Array, scores: Array, dlogp: Array, dscores: Array
    ) -> None:
        sums = answer_sums(batch, logp)
        dsums = np.empty_like(sums)
        numbers = self._numbers(batch, logp)
        kto_backward(dsums, sums, batch.reference, batch.labels, *numbers)
        answer_sums_backward(dlogp, dsums, batch.owner)

    def statistics(self, batch: Answers, logp: Array, scores: Array) -> dict[str, float]:
        rewards = self.config.beta * log_ratios(batch, logp)
        kinds = {"chosen reward": batch.labels > 0, "rejected reward": batch.labels < 0}
        found = {name: mean(rewards[which]) for name, which in kinds.items() if which.any()}
        if len(found) == len(kinds):  # of one kind alone there is no margin
            margin = found["chosen reward"] - found["rejected reward"]
            found = {"reward margin": margin, **found}
        return {**found, "reference point": self.reference_point(batch, logp)}
