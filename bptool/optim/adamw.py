"""AdamW: Adam whose weight decay acts on the weights, not through the gradient.

    w <- (1 - learning_rate weight_decay) w
    m <- beta1 m + (1 - beta1) g
    v <- beta2 v + (1 - beta2) g^2
    w <- w - learning_rate / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)

Defaults, as in PyTorch: learning_rate 1e-3, beta1 0.9, beta2 0.999, eps 1e-8, weight_decay 0.01.

Paper: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, algorithm 2.

Where frameworks differ: PyTorch and optax multiply the decay by the full learning rate, as here;
the paper multiplies it by the schedule's factor alone, so its lambda is our
``learning_rate * weight_decay``. optax's default decay is 1e-4, Keras's 4e-3. Tensors that are not
decayed (biases, norms) are the caller's choice; PyTorch decays all it is given.
"""

from __future__ import annotations

from pydantic import Field

from bptool.optim.adam import Adam, AdamConfig
from bptool.optim.base import WeightDecay
from bptool.registry import optimizers


class AdamWConfig(AdamConfig):
    """Settings of ``adamw``."""

    weight_decay: WeightDecay = Field(
        0.01, description="Weights shrink by learning rate times this a step."
    )


@optimizers.register("adamw")
class AdamW(Adam):
    """Adam with decoupled weight decay; see the module's docstring for the rule."""

    Config = AdamWConfig
    decoupled = True
