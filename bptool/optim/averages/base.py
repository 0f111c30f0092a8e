"""What every average of weights has: a typed ``Config``, and one pass that takes weights in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from numpy.typing import NDArray

from bptool.config.section import Section

Array = NDArray[Any]


class AverageConfig(Section):
    """Settings of an average."""


class WeightAverage:
    """One rule of averaging. Holds its settings only: weights live in the caller's buffers.

    Attributes:
        config: the settings, an instance of ``Config``.
        slots: names of the buffers it needs beside the average itself, each the size of the
            parameters and zero at the start. May depend on the settings.
    """

    Config: ClassVar[type[AverageConfig]] = AverageConfig
    name: ClassVar[str]

    slots: tuple[str, ...] = ()

    def __init__(self, config: Any) -> None:
        self.config = config

    def interval(self, eval_interval: int) -> int:
        """Updates from one taking in to the next, in a run that evaluates so often."""
        raise NotImplementedError

    def take(self, average: Array, w: Array, slots: Mapping[str, Array], *, n: int) -> None:
        """Take in ``w``, the ``n``-th weights, from 1; ``average`` becomes the mean with them.

        Called from several threads on disjoint slices, so it may not change ``self``; the result
        may not depend on how the buffers are cut, and padding, which is 0, stays 0.

        Args:
            average: in place; contiguous, 1-D, float32 or float64.
            w: weights that would be evaluated without an average; left as they are.
            slots: buffers by name, in place.
        """
        raise NotImplementedError
