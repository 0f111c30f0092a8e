"""LAWA: the mean of the latest weights, taken some updates apart.

    a = (w_(n-k+1) + ... + w_n) / k,    of the weights that there are while n < k

Weights are taken at each evaluation, or each ``interval`` updates. The last ``count`` of them are
kept, so memory and the optimizer's file of a checkpoint grow by ``count`` times the parameters.

Papers: Kaddour, "Stop Wasting My Time! Saving Days of ImageNet and BERT Training with Latest Weight
Averaging", arXiv:2209.14981; Sanyal et al., arXiv:2306.03241, on language models, who gain more at
high learning rates and with weights further apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from bptool.ops.jit import kernel
from bptool.optim.averages.base import Array, AverageConfig, WeightAverage
from bptool.registry import averages


class LAWAConfig(AverageConfig):
    """Settings of ``lawa``."""

    count: int = Field(5, ge=1, le=100, description="How many of the latest weights.")
    interval: Annotated[int, Field(ge=1, le=10**9)] | None = Field(
        None, description="Updates from one to the next; null: as training.eval_interval."
    )


@kernel
def set_scaled(out: Array, w: Array, scale: float) -> None:
    """out <- scale w. Arrays ``(n,)``."""
    scale_ = out.dtype.type(scale)
    for i in range(out.shape[0]):
        out[i] = scale_ * w[i]


@kernel
def add_scaled(out: Array, w: Array, scale: float) -> None:
    """out <- out + scale w. Arrays ``(n,)``."""
    scale_ = out.dtype.type(scale)
    for i in range(out.shape[0]):
        out[i] += scale_ * w[i]


@averages.register("lawa")
class LAWA(WeightAverage):
    """Mean of the last ``count``."""

    Config = LAWAConfig
    config: LAWAConfig

    def __init__(self, config: LAWAConfig) -> None:
        super().__init__(config)
        self.slots = tuple(f"latest_{i}" for i in range(config.count))

    def interval(self, eval_interval: int) -> int:
        return self.config.interval or eval_interval

    def take(self, average: Array, w: Array, slots: Mapping[str, Array], *, n: int) -> None:
        count = self.config.count
        slots[self.slots[(n - 1) % count]][:] = w
        kept = min(n, count)
        set_scaled(average, slots[self.slots[0]], 1.0 / kept)
        for slot in self.slots[1:kept]:
            add_scaled(average, slots[slot], 1.0 / kept)
