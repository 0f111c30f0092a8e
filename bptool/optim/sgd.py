"""Stochastic gradient descent, with momentum, dampening and Nesterov's look-ahead as options.

    g <- g + weight_decay w
    b <- g                                        at the first step, else
    b <- momentum b + (1 - dampening) g
    d  = g + momentum b   with Nesterov,   b   with momentum alone,   g   without
    w <- w - learning_rate d

Defaults, as in PyTorch: learning_rate 1e-3, momentum 0, dampening 0, nesterov off, weight_decay 0.
With no momentum there is no state. ``momentum`` and ``nesterov`` are the same rule under names
of their own.

Papers: Robbins and Monro, "A Stochastic Approximation Method", 1951 (the rule); Polyak, "Some
methods of speeding up the convergence of iteration methods", 1964 (momentum); Sutskever, Martens,
Dahl and Hinton, "On the importance of initialization and momentum in deep learning", ICML 2013
(Nesterov's method in this form).

Where frameworks differ:
- The learning rate multiplies the buffer when it is used (PyTorch, optax), not when it is filled
  (Polyak, Sutskever et al., Keras): a change of the rate acts on the whole past at once here.
- Nesterov's gradient is meant at the point ahead. As in PyTorch, optax and Keras the weights kept
  are that point, so the look-ahead needs no second pass.
- Dampening does not apply to the first step. optax's ``trace`` and Keras have none.
- ``weight_decay`` is the L2 penalty's gradient and goes through the momentum. SGDW of Loshchilov
  and Hutter decays the weights beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, model_validator

from bptool.ops.jit import kernel
from bptool.optim.base import Array, Fraction, LearningRate, Optimizer, OptimizerConfig, WeightDecay
from bptool.registry import optimizers


class SGDConfig(OptimizerConfig):
    """Settings of ``sgd``."""

    learning_rate: LearningRate = Field(1e-3, description="Step size, before the schedule.")
    momentum: Fraction = Field(0.0, description="What the running sum of gradients keeps a step.")
    dampening: float = Field(
        0.0, ge=0, le=1, description="Share of each gradient left out of the running sum."
    )
    nesterov: bool = Field(False, description="Step by the gradient after the momentum's move.")
    weight_decay: WeightDecay = Field(0.0, description="L2: this times w is added to g.")

    @model_validator(mode="after")
    def _nesterov_is_undamped(self) -> SGDConfig:
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError(
                "nesterov needs momentum above 0 and dampening 0; found "
                f"momentum {self.momentum:g}, dampening {self.dampening:g}"
            )
        return self


@kernel
def sgd_update(
    w: Array, g: Array, grad_scale: float, weight_decay: float, learning_rate: float
) -> None:
    """One fused pass without momentum. All arrays ``(n,)``."""
    real = w.dtype.type
    scale_, decay_, rate_ = real(grad_scale), real(weight_decay), real(learning_rate)
    for i in range(w.shape[0]):
        w[i] -= rate_ * (scale_ * g[i] + decay_ * w[i])


@kernel
def sgd_momentum_update(
    w: Array,
    g: Array,
    b: Array,
    grad_scale: float,
    weight_decay: float,
    learning_rate: float,
    momentum: float,
    new: float,
    from_gradient: float,
    from_buffer: float,
) -> None:
    """One fused pass with momentum. All arrays ``(n,)``.

    ``new`` is the weight of the gradient in the buffer; the direction is
    ``from_gradient * g + from_buffer * b``.
    """
    real = w.dtype.type
    scale_, decay_, rate_ = real(grad_scale), real(weight_decay), real(learning_rate)
    momentum_, new_ = real(momentum), real(new)
    from_gradient_, from_buffer_ = real(from_gradient), real(from_buffer)
    for i in range(w.shape[0]):
        gi = scale_ * g[i] + decay_ * w[i]
        bi = momentum_ * b[i] + new_ * gi
        b[i] = bi
        w[i] -= rate_ * (from_gradient_ * gi + from_buffer_ * bi)


@optimizers.register("sgd")
class SGD(Optimizer):
    """SGD with optional momentum; see the module's docstring for the rule."""

    Config: ClassVar[type[OptimizerConfig]] = SGDConfig

    def __init__(self, config: OptimizerConfig) -> None:
        super().__init__(config)
        self.rule = self.as_sgd(config)
        self.slots = ("momentum",) if self.rule.momentum > 0 else ()

    def as_sgd(self, config: OptimizerConfig) -> SGDConfig:
        """The settings as those of ``sgd``, for a rule that is SGD under another name."""
        return SGDConfig(**config.model_dump())

    def update(
        self,
        w: Array,
        g: Array,
        slots: Mapping[str, Array],
        *,
        learning_rate: float,
        weight_decay: float,
        grad_scale: float,
        step: int,
    ) -> None:
        rule = self.rule
        scale, decay, rate = float(grad_scale), float(weight_decay), float(learning_rate)
        if rule.momentum == 0:
            sgd_update(w, g, scale, decay, rate)
            return
        new = 1.0 if step == 1 else 1.0 - rule.dampening
        ahead = (1.0, rule.momentum) if rule.nesterov else (0.0, 1.0)
        sgd_momentum_update(w, g, slots["momentum"], scale, decay, rate, rule.momentum, new, *ahead)
