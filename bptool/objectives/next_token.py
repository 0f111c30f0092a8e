"""Next-token cross-entropy: loss = - sum_n logp[n] / n_targets over unmasked targets.

Shapes: logp, dlogp, added (N,); targets (N,), -1 where masked. ``inverse_n_targets`` is one over
the number of unmasked targets of the whole step (every shard and micro-batch), so that the parts
add up to the exact mean however unevenly they are masked.
Backward: dlogp[n] = -1 / n_targets, and 0 where masked; label smoothing and z-loss are weighed by
the same number (``logit_terms``).
"""

from __future__ import annotations

from typing import NamedTuple

from bptool.config.section import Section
from bptool.objectives.base import Array, Objective
from bptool.ops.jit import kernel
from bptool.registry import objectives


@kernel
def next_token_forward(logp, targets, inverse_n_targets):  # type: ignore[no-untyped-def]
    """This part's share of the mean loss, summed in float64."""
    total = 0.0
    for i in range(logp.size):
        if targets[i] >= 0:
            total -= logp[i]
    return total * inverse_n_targets


@kernel
def next_token_penalty(added, inverse_n_targets):  # type: ignore[no-untyped-def]
    """This part's share of the mean that ``logit_terms`` adds to the loss, summed in float64."""
    total = 0.0
    for i in range(added.size):
        total += added[i]
    return total * inverse_n_targets


@kernel
def next_token_backward(dlogp, targets, inverse_n_targets):  # type: ignore[no-untyped-def]
    real = dlogp.dtype.type
    for i in range(dlogp.size):
        dlogp[i] = real(-inverse_n_targets) if targets[i] >= 0 else real(0.0)


class NextTokenConfig(Section):
    """Settings of ``next-token``: there are none."""


class Targets(NamedTuple):
    """The targets of one step."""

    targets: Array
    """(N,), -1 where masked."""
    inverse_n_targets: float


@objectives.register("next-token")
class NextToken(Objective):
    """Cross-entropy, as pretraining and supervised fine-tuning minimise it."""

    Config = NextTokenConfig

    def loss(self, batch: Targets, logp: Array, scores: Array) -> float:
        return float(next_token_forward(logp, *batch))

    def gradient(
        self, batch: Targets, logp: Array, scores: Array, dlogp: Array, dscores: Array
    ) -> None:
        next_token_backward(dlogp, *batch)
