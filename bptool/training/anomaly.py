"""Where numbers stopped being finite: the first tensor of a step, in the order in which they are
made.

A step makes its numbers in this order: the weights it starts from, what each operation of the
forward leaves behind, layer by layer, the log-probabilities, what an objective is given beside them
and what it makes of them, and the gradients, those of the last layer first. The first that holds a
NaN or an infinity names the operation at fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from bptool.models.base import Array
from bptool.training.step import TrainingStep

_CHUNK = 2**20


class Anomaly(NamedTuple):
    """The first tensor that is not finite."""

    kind: str
    """``weight``, ``result`` (of an operation of the forward), or ``gradient``."""
    name: str
    value: float
    """The first such number in it."""
    place: tuple[int, ...]
    """Where that is."""
    n_bad: int
    """How many there are."""
    size: int

    def __str__(self) -> str:
        what = {"weight": "the weight", "result": "the result of", "gradient": "the gradient of"}
        return (
            f"{what[self.kind]} {self.name}: {self.value} at {list(self.place)}, "
            f"{self.n_bad:,} of {self.size:,} numbers"
        )


def first_anomaly(step: TrainingStep) -> Anomaly | None:
    """Look through the last batch of ``step``, which is run again micro-batch by micro-batch; None
    where all is finite."""
    named = step.model.layout.named
    found = _first("weight", iter(named(step.weights).items()))
    if found is not None:
        return found
    if step.shards.last_batch is not None:
        found = _first("result", step.shards.last_batch.results(step.shards, step.params))
        if found is not None:
            return found
    gradients = list(named(step.shards.gradients[0]).items())
    for other in step.shards.gradients[1:]:
        gradients += named(other).items()
    return _first("gradient", reversed(gradients))


def _first(kind: str, tensors: Iterator[tuple[str, Array]]) -> Anomaly | None:
    for name, array in tensors:
        if not _is_finite(array):
            bad = ~np.isfinite(array)
            place = tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), array.shape))
            return Anomaly(kind, name, float(array[place]), place, int(bad.sum()), array.size)
    return None


def _is_finite(array: Array) -> bool:
    """Whether all numbers are, looked at a part at a time."""
    flat: Any = array.reshape(-1)
    return all(
        bool(np.isfinite(flat[at : at + _CHUNK]).all()) for at in range(0, flat.size, _CHUNK)
    )


def diagnosis(step: TrainingStep, number: int, in_a_row: int) -> str:
    """What to say where ``in_a_row`` steps up to ``number`` had no finite loss or gradient."""
    found = first_anomaly(step)
    where = f"; the first that is not finite is {found}" if found else ""
    steps = f"the last {in_a_row} steps" if in_a_row > 1 else "the step"
    return (
        f"step {number:,}: {steps} had no finite loss or gradient{where}; go on from a checkpoint "
        "before with --checkpoint, or train again from the start with a lower "
        "optimizer.learning_rate or with training.clip_norm"
    )
