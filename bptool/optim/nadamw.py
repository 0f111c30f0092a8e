"""NAdamW: NAdam whose weight decay acts on the weights, not through the gradient.

    w <- (1 - learning_rate weight_decay) w
    w <- w - the step of ``nadam`` (whose docstring has it)

Defaults: weight_decay 0.01 as in ``adamw``, the rest as in ``nadam``. It is PyTorch's NAdam with
``decoupled_weight_decay``, whose weight decay is 0 by default.

Papers: Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016; Loshchilov and
Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

Where frameworks differ: see ``nadam`` and ``adamw``.
"""

from __future__ import annotations

from pydantic import Field

from bptool.optim.base import WeightDecay
from bptool.optim.nadam import NAdam, NAdamConfig
from bptool.registry import optimizers


class NAdamWConfig(NAdamConfig):
    """Settings of ``nadamw``."""

    weight_decay: WeightDecay = Field(
        0.01, description="Weights shrink by learning rate times this a step."
    )
    decoupled_weight_decay: bool = Field(
        True, description="False adds weight_decay times w to g instead, as nadam does."
    )


@optimizers.register("nadamw")
class NAdamW(NAdam):
    """NAdam with decoupled weight decay; see the module's docstring for the rule."""

    Config = NAdamWConfig
