"""Exponential moving average of the weights after each update.

    a_n = a_(n-1) + c_n (w_n - a_(n-1)),    c_n = (1 - decay) / (1 - decay^n)

That is the moving average a <- decay a + (1 - decay) w from zero, corrected for its start as Adam's
moments are: the weights of w_1 ... w_n add up to one, and the initial weights have none. A warm-up
of the decay, (1 + n) / (10 + n), is the other way to the same end (TensorFlow's
``ExponentialMovingAverage`` with ``num_updates``).

``decay`` 0.99 looks back about 100 updates, 0.999 about 1,000: take a fifth of the run or less.

Papers: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM J.
Control Optim. 1992 (the mean of all); Kingma and Ba, arXiv:1412.6980, section 7.2 (the moving one,
with this correction).
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from bptool.ops.jit import kernel
from bptool.optim.averages.base import Array, AverageConfig, WeightAverage
from bptool.registry import averages


class EMAConfig(AverageConfig):
    """Settings of ``ema``."""

    decay: float = Field(0.99, gt=0, lt=1, description="Share that the average keeps an update.")


@kernel
def ema_take(average: Array, w: Array, share: float) -> None:
    """average <- average + share (w - average). Arrays ``(n,)``."""
    share_ = average.dtype.type(share)
    for i in range(average.shape[0]):
        average[i] += share_ * (w[i] - average[i])


@averages.register("ema")
class EMA(WeightAverage):
    """Corrected for its start; see the module's docstring."""

    Config = EMAConfig
    config: EMAConfig

    def interval(self, eval_interval: int) -> int:
        return 1

    def take(self, average: Array, w: Array, slots: Mapping[str, Array], *, n: int) -> None:
        decay = self.config.decay
        if n == 1:
            average[:] = w
        else:
            ema_take(average, w, (1.0 - decay) / (1.0 - decay**n))
