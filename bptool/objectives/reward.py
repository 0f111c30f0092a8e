"""Reward model: the Bradley-Terry likelihood of which of two answers was preferred.

    h_p  = s[place[2p]] - s[place[2p+1]]
    loss = mean over pairs of  -log sigmoid(h_p)
    dloss/dh_p = -sigmoid(-h_p) / P

s is the scalar head's score of a position; an answer's is read at its last token.
Shapes: scores, dscores (N,); places (A,) with A = 2P, chosen answers first in each pair.
Papers: Bradley and Terry 1952, "Rank analysis of incomplete block designs"; Ouyang et al. 2022,
"Training language models to follow instructions with human feedback", equation 1 with K = 2.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bptool.config.section import Section
from bptool.objectives.base import Array, Objective, accuracy
from bptool.objectives.sigmoid import log_sigmoid, sigmoid
from bptool.ops.jit import kernel
from bptool.registry import objectives


class RewardConfig(Section):
    """Settings of ``reward``: there are none."""


class ScoredPairs(NamedTuple):
    """Where the answers of one step are scored."""

    places: Array
    """(A,) int64: position of the last token of each answer in the flat arrays; chosen answers
    first in each pair."""


@kernel
def reward_forward(scores, places):  # type: ignore[no-untyped-def]
    total, n_pairs = 0.0, places.size // 2
    for p in range(n_pairs):
        h = np.float64(scores[places[2 * p]]) - np.float64(scores[places[2 * p + 1]])
        total -= log_sigmoid(h)
    return total / max(n_pairs, 1)


@kernel
def reward_backward(dscores, scores, places):  # type: ignore[no-untyped-def]
    real, n_pairs = dscores.dtype.type, places.size // 2
    dscores[:] = real(0.0)
    for p in range(n_pairs):
        h = np.float64(scores[places[2 * p]]) - np.float64(scores[places[2 * p + 1]])
        d = real(sigmoid(-h) / n_pairs)
        dscores[places[2 * p]] -= d
        dscores[places[2 * p + 1]] += d


@objectives.register("reward")
class Reward(Objective):
    """-log sigmoid of the difference of two scores."""

    Config = RewardConfig
    of_logp, of_scores = False, True

    def loss(self, batch: ScoredPairs, logp: Array, scores: Array) -> float:
        return float(reward_forward(scores, batch.places))

    def gradient(
        self, batch: ScoredPairs, logp: Array, scores: Array, dlogp: Array, dscores: Array
    ) -> None:
        reward_backward(dscores, scores, batch.places)

    def statistics(self, batch: ScoredPairs, logp: Array, scores: Array) -> dict[str, float]:
        pairs = scores[batch.places].astype(np.float64).reshape(-1, 2)
        margins = pairs[:, 0] - pairs[:, 1]
        return {
            "accuracy": accuracy(margins),
            "reward margin": float(np.mean(margins)) if len(margins) else 0.0,
        }
