"""Polynomial: a power of the steps that are left, from 1 down to ``final_fraction``.

    curve(r) = (1 - r)^power

The rest is in ``decay.py``. ``power`` 1, the default of PyTorch, TensorFlow and Hugging Face, is
the ``linear`` schedule; 2 spends more of the run at small rates, 0.5 less.

Paper: Chen et al., "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous
Convolution, and Fully Connected CRFs", 2016, arXiv:1606.00915 (section 4.1, the "poly" policy).

Where frameworks differ: PyTorch's ``PolynomialLR`` is the same with ``total_iters = decay_steps``
and ends at 0 always; Hugging Face's ends at a rate of its own, 1e-7.
"""

from __future__ import annotations

from pydantic import Field

from bptool.optim.schedules.decay import Decay, DecayConfig
from bptool.registry import schedules


class PolynomialConfig(DecayConfig):
    """Settings of ``polynomial``."""

    power: float = Field(1.0, gt=0, le=100, description="Exponent; 1 is a straight line.")


@schedules.register("polynomial")
class Polynomial(Decay):
    """A power of the steps left; see the module's docstring."""

    Config = PolynomialConfig
    config: PolynomialConfig

    def curve(self, done: int, total: int) -> float:
        return float(((total - done) / total) ** self.config.power)
