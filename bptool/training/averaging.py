"""An average of the weights along training: its buffers, when it takes weights in, its state."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bptool.models.base import Array, FlatLayout
from bptool.optim.averages.base import WeightAverage

PREFIX = "averaging"
"""Of the names, in a checkpoint's optimizer state, of what an average remembers."""


class Averaging:
    """A rule of averaging at work on a model's flat buffers.

    Args:
        rule: what is averaged, and how. eval_interval: updates between evaluations.

    Attributes:
        weights: the average; holds anything while ``n_taken`` is 0.
    """

    def __init__(
        self,
        rule: WeightAverage,
        eval_interval: int,
        layout: FlatLayout,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        self.rule, self._layout = rule, layout
        self._interval = rule.interval(eval_interval)
        self.weights = layout.allocate(dtype)
        self._slots = {name: layout.allocate(dtype) for name in rule.slots}
        self._n_taken = np.zeros(1)

    @property
    def each_update(self) -> bool:
        """Whether weights are taken in after every update."""
        return self._interval == 1

    @property
    def n_taken(self) -> int:
        """How many weights it has taken in."""
        return int(self._n_taken[0])

    def begin(self, n_updates: int) -> bool:
        """Whether weights are taken in after so many updates; if so, :meth:`take` follows."""
        due = n_updates % self._interval == 0
        self._n_taken += due
        return due

    def take(self, weights: Array, start: int, stop: int) -> None:
        """Take in a worker's part of ``weights``."""
        part = slice(start, stop)
        slots = {name: slot[part] for name, slot in self._slots.items()}
        self.rule.take(self.weights[part], weights[part], slots, n=self.n_taken)

    def state(self) -> dict[str, Array]:
        """All that a resume needs besides ``weights``, by the names of a checkpoint."""
        slots = {
            f"{PREFIX}/{slot}/{tensor}": view
            for slot, buffer in self._slots.items()
            for tensor, view in self._layout.named(buffer).items()
        }
        return slots | {f"{PREFIX}/n_taken": self._n_taken}

    def compile(self, weights: Array) -> None:
        """Compile the rule's kernels, or load them from the cache, by averaging nothing."""
        nothing = slice(0, 0)
        slots = {name: slot[nothing] for name, slot in self._slots.items()}
        for n in (1, 2):
            self.rule.take(self.weights[nothing], weights[nothing], slots, n=n)


def average_elements(rule: WeightAverage, layout: FlatLayout) -> int:
    """Numbers that :class:`Averaging` keeps."""
    return layout.size * (1 + len(rule.slots))
