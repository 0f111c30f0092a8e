"""An objective and, weighed, cross-entropy on other positions of the same rows.

    loss = objective + weight * cross-entropy

PPO with a pretraining mix is the "PPO-ptx" of Ouyang et al. 2022, arXiv:2203.02155, equation 2:
it keeps a model good at what it was pretrained on. Not registered, since it is made of two others.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bptool.objectives.base import Array, Objective
from bptool.objectives.next_token import NextToken, NextTokenConfig, Targets


class Both(NamedTuple):
    """The batch of the objective, and the targets of the mix, masked where the objective acts."""

    batch: Any
    mix: Targets


class Mixed(Objective):
    """``objective`` plus ``weight`` times the mean loss of the mix.

    Args:
        objective: with weights of 0 on positions of the mix. weight: of the mix.
    """

    name = "mixed"

    def __init__(self, objective: Objective, weight: float) -> None:
        super().__init__(objective.config)
        self.objective, self.weight = objective, weight
        self.of_scores = objective.of_scores
        self._mix = NextToken(NextTokenConfig())

    def loss(self, batch: Both, logp: Array, scores: Array) -> float:
        mix = self._mix.loss(batch.mix, logp, scores)
        return self.objective.loss(batch.batch, logp, scores) + self.weight * mix

    def gradient(
        self, batch: Both, logp: Array, scores: Array, dlogp: Array, dscores: Array
    ) -> None:
        of_mix = np.empty_like(dlogp)
        self._mix.gradient(batch.mix, logp, scores, of_mix, dscores)
        self.objective.gradient(batch.batch, logp, scores, dlogp, dscores)
        dlogp += self.weight * of_mix

    def statistics(self, batch: Both, logp: Array, scores: Array) -> dict[str, float]:
        found = self.objective.statistics(batch.batch, logp, scores)
        return {**found, "loss of the mix": self._mix.loss(batch.mix, logp, scores)}
