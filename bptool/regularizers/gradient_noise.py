"""Gradient noise: Gaussian noise on every element of the gradient, less as training goes on.

    g_i <- g_i + N(0, variance / (1 + t)^decay),    t updates done before this one

The noise is a function of seed, update and element (``ops/normal_noise.py``), so that neither the
number of workers nor a resume changes it. It is added after clipping, which would scale it down
where the gradient is large. Under rules that divide by the gradient's size (Adam), noise that is
larger than the gradient makes steps smaller; elements whose gradient is 0 move by noise alone.

Defaults: variance 0.01 and decay 0.55, of the paper's (it tried variances of 0.01, 0.3 and 1).

Paper: Neelakantan et al., "Adding Gradient Noise Improves Learning for Very Deep Networks",
arXiv:1511.06807, equations 1 and 2 (its eta is ``variance``, its gamma ``decay``).
"""

from __future__ import annotations

import math

from pydantic import Field

from bptool.ops.normal_noise import add_normal_noise
from bptool.registry import regularizers
from bptool.regularizers.base import Array, GradientModifier, RegularizerConfig


class GradientNoiseConfig(RegularizerConfig):
    """Settings of ``gradient-noise``."""

    variance: float = Field(0.01, ge=0, le=1e6, description="Variance at the first update.")
    decay: float = Field(
        0.55, ge=0, le=10, description="Power of the number of updates that divides the variance."
    )


@regularizers.register("gradient-noise")
class GradientNoise(GradientModifier):
    """Noise of variance ``variance / (1 + t)^decay``."""

    Config = GradientNoiseConfig
    config: GradientNoiseConfig

    def modify(self, g: Array, *, first: int, seed: int, step: int) -> None:
        deviation = math.sqrt(self.config.variance * float(step) ** -self.config.decay)
        add_normal_noise(g, deviation, seed, step, first)
