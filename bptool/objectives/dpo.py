"""DPO: direct preference optimization, with label smoothing.

    h_p  = beta (r[2p] - r[2p+1]),   r[a] = log pi(a) - log pi_ref(a)
    loss = mean over pairs of  -(1 - eps) log sigmoid(h_p) - eps log sigmoid(-h_p)
    dloss/dh_p = (sigmoid(h_p) - (1 - eps)) / P

Shapes: sums, reference, dsums (A,) with A = 2P, chosen answers first in each pair.
Papers: Rafailov et al. 2023, "Direct preference optimization", equation 7 and the gradient of its
section 4; label smoothing as in Mitchell 2023, "A note on DPO with noisy preferences and
relationship to IPO", equation 3, for labels that are wrong with probability eps.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from bptool.config.section import Section
from bptool.objectives.answers import (
    Answers,
    answer_sums,
    answer_sums_backward,
    pair_statistics,
)
from bptool.objectives.base import Array, Objective
from bptool.objectives.sigmoid import log_sigmoid, sigmoid
from bptool.ops.jit import kernel
from bptool.registry import objectives


class DPOConfig(Section):
    """Settings of ``dpo``."""

    beta: float = Field(
        0.1, gt=0, le=1e4, description="how closely the model is held to the reference"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="probability that a judgement is the wrong way round"
    )


@kernel
def dpo_forward(sums, reference, beta, smoothing):  # type: ignore[no-untyped-def]
    total, n_pairs = 0.0, sums.size // 2
    for p in range(n_pairs):
        i, j = 2 * p, 2 * p + 1
        h = beta * ((sums[i] - reference[i]) - (sums[j] - reference[j]))
        total -= (1.0 - smoothing) * log_sigmoid(h) + smoothing * log_sigmoid(-h)
    return total / max(n_pairs, 1)


@kernel
def dpo_backward(dsums, sums, reference, beta, smoothing):  # type: ignore[no-untyped-def]
    n_pairs = sums.size // 2
    for p in range(n_pairs):
        i, j = 2 * p, 2 * p + 1
        h = beta * ((sums[i] - reference[i]) - (sums[j] - reference[j]))
        # sigmoid(h) - 1 = -sigmoid(-h), which keeps its digits where sigmoid(h) is nearly 1
        d = smoothing - sigmoid(-h)
        dsums[i] = beta * d / n_pairs
        dsums[j] = -beta * d / n_pairs


@objectives.register("dpo")
class DPO(Objective):
    """-log sigmoid of the difference of implicit rewards."""

    Config = DPOConfig
    config: DPOConfig

    def loss(self, batch: Answers, logp: Array, scores: Array) -> float:
        sums, config = answer_sums(batch, logp), self.config
        return float(dpo_forward(sums, batch.reference, config.beta, config.label_smoothing))

    def gradient(
        self, batch: Answers, logp: Array, scores: Array, dlogp: Array, dscores: Array
    ) -> None:
        sums, config = answer_sums(batch, logp), self.config
        dsums = np.empty_like(sums)
        dpo_backward(dsums, sums, batch.reference, config.beta, config.label_smoothing)
        answer_sums_backward(dlogp, dsums, batch.owner)

    def statistics(self, batch: Answers, logp: Array, scores: Array) -> dict[str, float]:
        return pair_statistics(batch, logp, self.config.beta)
