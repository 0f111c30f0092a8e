"""What every optimizer has: a typed ``Config``, named state slots, and one fused ``update``.

Most rules change each weight by its own gradient and history; they are cut over the workers at any
element. A rule that needs whole tensors (norms of layers, matrix products) is a :class:`TensorRule`
(``tensor_rule.py``). A rule is one file of this folder (or of a user's own, see
``docs/plugins.md``)::

    class MyRuleConfig(OptimizerConfig): ...


    @kernel
    def my_rule_update(w, g, ...): ...


    @optimizers.register("my-rule")
    class MyRule(Optimizer): ...

The tests of ``tests/test_optim_contract.py`` go over the registry and pick it up by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from numpy.typing import NDArray
from pydantic import Field, model_validator

from bptool.config.section import Section, refuse
from bptool.optim.groups import ParameterGroup

Array = NDArray[Any]

LearningRate = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]

Fraction = Annotated[float, Field(ge=0, lt=1)]
"""A share of the past that a running average keeps."""

Epsilon = Annotated[float, Field(ge=1e-30, le=1e3, allow_inf_nan=False)]
"""Added to a denominator. Never 0, also in float32: a padding element would become 0/0."""

WeightDecay = Annotated[float, Field(ge=0, le=1e3, allow_inf_nan=False)]


class OptimizerConfig(Section):
    """Settings that every optimizer has. A rule with weight decay adds ``weight_decay``."""

    learning_rate: LearningRate = Field(description="Step size, before the schedule's factor.")
    groups: tuple[ParameterGroup, ...] = Field(
        (), max_length=64, description="Other settings for tensors by name."
    )

    @model_validator(mode="after")
    def _decay_only_where_the_rule_has_it(self) -> OptimizerConfig:
        if "weight_decay" not in type(self).model_fields:
            for group in self.groups:
                if group.weight_decay is not None:
                    value = group.weight_decay
                    refuse("groups", value, f"this optimizer has no weight decay; found {value:g}")
        return self


class Optimizer:
    """One update rule. Holds its settings only: the state lives in the caller's slot buffers.

    Attributes:
        config: the settings, an instance of ``Config``.
        slots: names of the state buffers the rule needs, each the size of the parameters and
            zero at the start. May depend on the settings.
        scalars: names of the numbers that it keeps beside them, the same for every element:
            float64, 0 at the start, changed by :meth:`advance`.
        evaluates_elsewhere: the weights to evaluate are not those that gradients are taken at;
            :meth:`evaluation_weights` gives them.
    """

    Config: ClassVar[type[OptimizerConfig]] = OptimizerConfig
    name: ClassVar[str]

    config: OptimizerConfig
    slots: tuple[str, ...] = ()
    scalars: tuple[str, ...] = ()
    evaluates_elsewhere: ClassVar[bool] = False

    def __init__(self, config: OptimizerConfig) -> None:
        self.config = config

    @property
    def weight_decay(self) -> float:
        """Weight decay of tensors that are decayed; 0 for a rule that has none."""
        return float(getattr(self.config, "weight_decay", 0.0))

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
        """Change ``w`` and the slots in place by one step of the rule; ``g`` is left as it is.

        Called from several threads on disjoint slices, so it may not change ``self``. An
        element whose weight, gradient and slots are 0 (the padding between tensors) stays 0.

        Args:
            w: weights, contiguous, 1-D, float32 or float64.
            g: gradient, shape and type of ``w``.
            slots: state by name, each with the shape and type of ``w``, and each of ``scalars``
                as an array of one float64, not to be changed here.
            learning_rate: ``config.learning_rate`` times the schedule's factor.
            weight_decay: ``self.weight_decay``, or 0 for tensors that are not decayed.
            grad_scale: multiplies the gradient first (clipping).
            step: number of this update, from 1. Updates that were skipped do not count.
        """
        raise NotImplementedError

    def advance(
        self, scalars: Mapping[str, float], *, learning_rate: float, step: int
    ) -> dict[str, float]:
        """The scalars of ``step`` from those of the step before; called once, before ``update``.

        ``learning_rate`` has the schedule's factor in it and no parameter group's.
        """
        return dict(scalars)

    def evaluation_weights(self, out: Array, w: Array, slots: Mapping[str, Array]) -> None:
        """Write the weights to evaluate into ``out``; ``w`` are those that training holds.

        For a rule that ``evaluates_elsewhere``: evaluations, samples and the weights of a
        checkpoint are of ``out``; a resume goes on from ``w``, which the checkpoint holds too.
        Arrays as in :meth:`update`, whole or any slice; before the first update slots are zero.
        """
        raise NotImplementedError
