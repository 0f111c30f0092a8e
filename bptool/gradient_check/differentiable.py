"""What the checker can check: a scalar function of named arrays, with its own gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Signs = NDArray[np.bool_]


class Differentiable(ABC):
    """A scalar function of named float64 arrays beside the gradient that is claimed for it.

    ``inputs`` holds the arrays themselves: the checker changes them in place, calls ``value``
    and puts back the exact bits it found. ``value`` must depend on nothing else that changes
    (dropout holds its key), and ``gradients`` must not change the inputs.
    """

    name: str
    inputs: dict[str, Array]

    @abstractmethod
    def value(self) -> float:
        """The function at the current contents of ``inputs``."""

    @abstractmethod
    def gradients(self) -> Mapping[str, Array]:
        """For each input, an array of its shape: the gradient at the current contents."""

    def kinks(self) -> dict[str, Signs]:
        """The side of each kink (``relu: x > 0``) that the last ``value`` was on, by name.

        Two evaluations with equal signs lie on one smooth piece of the function.
        """
        return {}


class Function(Differentiable):
    """A ``Differentiable`` made of plain callables."""

    def __init__(
        self,
        name: str,
        inputs: dict[str, Array],
        value: Callable[[], float],
        gradients: Callable[[], Mapping[str, Array]],
        kinks: Callable[[], dict[str, Signs]] | None = None,
    ) -> None:
        self.name = name
        self.inputs = inputs
        self._value = value
        self._gradients = gradients
        self._kinks = kinks

    def value(self) -> float:
        return self._value()

    def gradients(self) -> Mapping[str, Array]:
        return self._gradients()

    def kinks(self) -> dict[str, Signs]:
        return self._kinks() if self._kinks is not None else {}


class Composed(Differentiable):
    """An operation with array outputs, made scalar by ``sum(c * s * sin(y / s))``.

    The sine bends even a linear operation, so that its Taylor remainder is not zero. The random
    ``c`` weigh every output element differently; ``s`` is the root mean square of an output at
    the start, so that its values spread over the bend of the sine whatever their scale.

    Args:
        name: of the operation, for the report.
        inputs: the arrays to check, by name.
        forward: fills and returns the outputs, by name, from ``inputs``.
        backward: takes the gradients of the outputs, called right after ``forward``, and
            returns the gradients of the inputs.
        kinks: signs after the last ``forward``.
        seed: of ``c``.
    """

    def __init__(
        self,
        name: str,
        inputs: dict[str, Array],
        forward: Callable[[], Mapping[str, Array]],
        backward: Callable[[dict[str, Array]], Mapping[str, Array]],
        kinks: Callable[[], dict[str, Signs]] | None = None,
        seed: int = 0,
    ) -> None:
        self.name = name
        self.inputs = inputs
        self._forward = forward
        self._backward = backward
        self._kinks = kinks
        rng = np.random.default_rng([seed, 0x51E])
        outputs = forward()
        self._scale = {k: float(np.sqrt(np.mean(y * y))) or 1.0 for k, y in outputs.items()}
        self._weight = {
            k: rng.choice((-1.0, 1.0), y.shape) * rng.uniform(0.5, 1.5, y.shape)
            for k, y in outputs.items()
        }

    def value(self) -> float:
        total = 0.0
        for key, y in self._forward().items():
            scale = self._scale[key]
            total += float(np.sum(self._weight[key] * np.sin(y / scale))) * scale
        return total

    def gradients(self) -> Mapping[str, Array]:
        outputs = self._forward()
        d_outputs = {k: self._weight[k] * np.cos(y / self._scale[k]) for k, y in outputs.items()}
        return self._backward(d_outputs)

    def kinks(self) -> dict[str, Signs]:
        return self._kinks() if self._kinks is not None else {}
