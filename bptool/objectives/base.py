"""What the objectives on a step's log-probabilities and scores have in common.

Unlike cross-entropy these need every log-probability of the step before they know the gradient of
one. All arrays are of the N = B*T positions of the step, flat; what belongs to the data of one step
(which answer a position belongs to, reference log-probabilities, advantages) is a NamedTuple of the
objective's own, its *batch*. Sums are kept in float64 whatever the type of the arrays.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bptool.config.section import Section

Array = npt.NDArray[Any]


class Objective(ABC):
    """A loss as a function of log-probabilities and scores.

    Args:
        config: the objective's own ``Config`` section.
    """

    Config: ClassVar[type[Section]]
    name: ClassVar[str]
    of_logp: bool = True
    """Whether it depends on the log-probabilities."""
    of_scores: bool = False
    """Whether it depends on the scores of a scalar head."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def loss(self, batch: Any, logp: Array, scores: Array) -> float:
        """The loss at ``logp`` and ``scores``, (N,); what it does not depend on may be anything."""

    @abstractmethod
    def gradient(
        self, batch: Any, logp: Array, scores: Array, dlogp: Array, dscores: Array
    ) -> None:
        """Overwrite ``dlogp`` and ``dscores``, (N,), with the gradient of :meth:`loss`; that which
        the loss does not depend on stays as it is."""

    def statistics(self, batch: Any, logp: Array, scores: Array) -> dict[str, float]:
        """What a practitioner looks at beside the loss, by name."""
        return {}


def accuracy(margins: Array) -> float:
    """Share of pairs that are in order, (P,) differences of their scores; ties count half, and of
    no pairs it is 0."""
    return mean(0.5 + 0.5 * np.sign(margins))


def mean(values: Array) -> float:
    """The mean in float64, 0 of none."""
    return float(np.mean(values, dtype=np.float64)) if values.size else 0.0
