"""What every regularizer has: a typed ``Config``, and the one place of a step where it acts.

There are three kinds, each a base class with a method of its own. In a step's order:

- :class:`Penalty`: on the weights, before the norm of the gradient is measured and clipped;
- :class:`GradientModifier`: on the gradient, after clipping and before the optimizer's update;
- :class:`Constraint`: on the weights, after the update.
"""

from __future__ import annotations

from typing import Any, ClassVar

from numpy.typing import NDArray
from pydantic import Field

from bptool.config.section import Section

Array = NDArray[Any]


class RegularizerConfig(Section):
    """Settings of a regularizer."""


class Regularizer:
    """What the three kinds share. Holds its settings only; it has no state."""

    Config: ClassVar[type[RegularizerConfig]] = RegularizerConfig
    name: ClassVar[str]

    def __init__(self, config: Any) -> None:
        self.config = config


class PenaltyConfig(RegularizerConfig):
    """Settings that every penalty has."""

    strength: float = Field(
        1e-4, ge=0, le=1e3, allow_inf_nan=False, description="What the penalty is multiplied by."
    )


class Penalty(Regularizer):
    """A penalty on the weights of decayed tensors, added to the loss."""

    Config: ClassVar[type[RegularizerConfig]] = PenaltyConfig

    def penalty_and_gradient(self, w: Array, g: Array) -> float:
        """Add the penalty's gradient to ``g`` in place and return the penalty.

        Called on disjoint slices, from several threads: the penalties of the slices add up to the
        whole's. An element that is 0 (the padding between tensors) adds nothing to either.

        Args:
            w: weights, contiguous, 1-D, float32 or float64; left as they are.
            g: gradient of the loss with respect to ``w``, same shape and type.
        """
        raise NotImplementedError


class GradientModifier(Regularizer):
    """A change of the gradient, of every tensor, that is no gradient of anything."""

    def modify(self, g: Array, *, first: int, seed: int, step: int) -> None:
        """Change ``g`` in place.

        Called on disjoint slices, from several threads; the result may not depend on how the
        gradient is cut. No slice has padding in it.

        Args:
            g: the gradient, clipped; contiguous, 1-D, float32 or float64.
            first: index of ``g[0]`` in the whole gradient.
            seed: of the run.
            step: number of the update, from 1; with the seed and an index, all that randomness may
                depend on.
        """
        raise NotImplementedError


class Constraint(Regularizer):
    """A condition that weights are put back to after each update."""

    def applies_to(self, shape: tuple[int, ...], table: bool) -> bool:
        """Whether a decayed tensor of this shape is constrained.

        ``table``: its rows stand for tokens or positions (embeddings, output weights).
        """
        raise NotImplementedError

    def constrain(self, w: Array) -> None:
        """Change rows of weights in place.

        Called on disjoint rows, from several threads, so each row is put back alone.

        Args:
            w: rows of one tensor, (rows, width), contiguous, float32 or float64: the weights into
                one output each.
        """
        raise NotImplementedError
