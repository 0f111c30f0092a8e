"""What every regularizer of parameters has: a typed ``Config`` and one fused pass."""

from __future__ import annotations

from typing import Any, ClassVar

from numpy.typing import NDArray
from pydantic import Field

from bptool.config.section import Section

Array = NDArray[Any]


class RegularizerConfig(Section):
    """Settings that every regularizer has."""

    strength: float = Field(
        1e-4, ge=0, allow_inf_nan=False, description="What the penalty is multiplied by."
    )


class Regularizer:
    """A penalty on the weights of decayed tensors, added to the loss."""

    Config: ClassVar[type[RegularizerConfig]] = RegularizerConfig
    name: ClassVar[str]

    config: RegularizerConfig

    def __init__(self, config: RegularizerConfig) -> None:
        self.config = config

    def penalty_and_gradient(self, w: Array, g: Array) -> float:
        """Add the penalty's gradient to ``g`` in place and return the penalty.

        Called on disjoint slices, from several threads: the penalties of the slices add up to the
        whole's. An element that is 0 (the padding between tensors) adds nothing to either.

        Args:
            w: weights, contiguous, 1-D, float32 or float64; left as they are.
            g: gradient of the loss with respect to ``w``, same shape and type.
        """
        raise NotImplementedError
