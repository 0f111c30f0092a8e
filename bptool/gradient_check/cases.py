"""What the list of checked operations is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bptool.gradient_check.differentiable import Array, Differentiable


@dataclass(frozen=True)
class Case:
    """One entry: a name, the backward kernels that it runs, and how to make the function."""

    name: str
    covers: tuple[str, ...]
    make: Callable[[np.random.Generator], Differentiable]


class Addend:
    """An output that a backward adds to: it starts from numbers, which the result is freed of."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
        self.start = rng.normal(size=shape)
        self.array = self.start.copy()

    def reset(self) -> Array:
        self.array[...] = self.start
        return self.array

    @property
    def added(self) -> Array:
        return self.array - self.start


def overwritten(shape: tuple[int, ...]) -> Array:
    """An output that a backward must fill whole."""
    return np.full(shape, np.nan)
