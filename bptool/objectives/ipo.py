"""IPO: identity preference optimization, a squared loss whose margin has a finite aim.

    h_p  = r[2p] - r[2p+1],   r[a] = log pi(a) - log pi_ref(a)
    loss = mean over pairs of  (h_p - 1 / (2 beta))^2
    dloss/dh_p = 2 (h_p - 1 / (2 beta)) / P

Shapes: sums, reference, dsums (A,) with A = 2P, chosen answers first in each pair.
Log-probabilities of answers are sums over their tokens, as in the paper; its tau is ``beta``.
Paper: Azar et al. 2023, "A general theoretical paradigm to understand learning from human
preferences", equation 17.
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
from bptool.ops.jit import kernel
from bptool.registry import objectives


class IPOConfig(Section):
    """Settings of ``ipo``."""

    beta: float = Field(
        0.1, gt=0, le=1e4, description="the paper's tau; the margin's aim is 1 / (2 beta)"
    )


@kernel
def ipo_forward(sums, reference, beta):  # type: ignore[no-untyped-def]
    total, n_pairs = 0.0, sums.size // 2
    for p in range(n_pairs):
        i, j = 2 * p, 2 * p + 1
        off = (sums[i] - reference[i]) - (sums[j] - reference[j]) - 0.5 / beta
        total += off * off
    return total / max(n_pairs, 1)


@kernel
def ipo_backward(dsums, sums, reference, beta):  # type: ignore[no-untyped-def]
    n_pairs = sums.size // 2
    for p in range(n_pairs):
        i, j = 2 * p, 2 * p + 1
        off = (sums[i] - reference[i]) - (sums[j] - reference[j]) - 0.5 / beta
        dsums[i] = 2.0 * off / n_pairs
        dsums[j] = -2.0 * off / n_pairs


@objectives.register("ipo")
class IPO(Objective):
    """Squared distance of the margin of log-ratios from 1 / (2 beta)."""

    Config = IPOConfig
    config: IPOConfig

    def loss(self, batch: Answers, logp: Array, scores: Array) -> float:
        return float(ipo_forward(answer_sums(batch, logp), batch.reference, self.config.beta))

    def gradient(
        self, batch: Answers, logp: Array, scores: Array, dlogp: Array, dscores: Array
    ) -> None:
        sums = answer_sums(batch, logp)
        dsums = np.empty_like(sums)
        ipo_backward(dsums, sums, batch.reference, self.config.beta)
        answer_sums_backward(dlogp, dsums, batch.owner)

    def statistics(self, batch: Answers, logp: Array, scores: Array) -> dict[str, float]:
        return pair_statistics(batch, logp, self.config.beta)
