"""Cosine: half a period of a cosine from 1 down to ``final_fraction``, after a warm-up.

    curve(r) = (1 + cos(pi r)) / 2

The rest is in ``decay.py``. This is nanoGPT's rule with ``final_fraction = min_lr /
learning_rate``. With restarts it is ``cosine-restarts``.

Paper: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017
(equation 5, one period).

Where frameworks differ: PyTorch's ``CosineAnnealingLR`` is the same with ``T_max = decay_steps``
and ``eta_min = f * learning_rate``, but rises again after ``T_max``; optax's ``decay_steps`` also
includes the warm-up; Keras's does not.
"""

from __future__ import annotations

import math

from pydantic import Field

from bptool.optim.schedules.base import Fraction
from bptool.optim.schedules.decay import Decay, DecayConfig
from bptool.registry import schedules


class CosineConfig(DecayConfig):
    """Settings of ``cosine``."""

    final_fraction: Fraction = Field(
        0.1, description="End value, as a fraction of the optimizer's learning rate."
    )


@schedules.register("cosine")
class Cosine(Decay):
    """Half a cosine down; see the module's docstring."""

    Config = CosineConfig

    def curve(self, done: int, total: int) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * (done / total)))
