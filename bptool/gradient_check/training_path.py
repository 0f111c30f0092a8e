"""The gradient of the program that really trains, against the float64 one that was checked.

Training differs from the check in everything but the mathematics: float32, polynomial
elementary functions, another matrix engine, rows cut over workers, micro-batches that
accumulate, a reduction. At the same weights, batch and dropout masks, each tensor of its gradient
must be within 1e-5 of the checked one in L2. A tensor whose true gradient is zero, as a key
bias's is, has nothing to be relative to and is measured against the norm of all gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptool.gradient_check.model import SAFE_MARGIN, ModelFunction
from bptool.gradient_check.report import plain

MAX_ERROR = 1e-5
ZERO = 1e-6
"""Share of the norm of all gradients under which a tensor's gradient counts as zero."""

TrainingGradient = Callable[[ModelFunction], tuple[float, NDArray[Any]]]
"""From the function (its weights, batch and mask key) to what training makes of it: the loss
with penalties, and the flat gradient after reduction."""


@dataclass(frozen=True)
class Agreement:
    """One tensor of the trained gradient."""

    name: str
    shape: tuple[int, ...]
    error: float
    """L2 norm of the difference over ``measured_against``."""
    measured_against: float
    zero: bool
    """The checked gradient is zero, so the norm of all gradients was taken instead."""

    @property
    def ok(self) -> bool:
        return self.error <= MAX_ERROR


@dataclass(frozen=True)
class PathReport:
    """The comparison of one batch. ``problem`` says why nothing could be compared, if so."""

    name: str
    loss: float
    checked_loss: float
    tensors: list[Agreement]
    note: str = ""

    @property
    def ok(self) -> bool:
        close = abs(self.loss - self.checked_loss) <= MAX_ERROR * abs(self.checked_loss)
        return bool(self.tensors) and close and all(t.ok for t in self.tensors)

    @property
    def worst(self) -> Agreement:
        """The tensor with the largest error; NaN counts as largest."""
        return max(self.tensors, key=lambda t: t.error if math.isfinite(t.error) else math.inf)

    def failures(self) -> list[str]:
        """Every disagreement, one line each."""
        lines = [
            f"{self.name}: {t.name}: the training gradient is off by {t.error:.3g} in L2 "
            f"(at most {MAX_ERROR:g})"
            for t in self.tensors
            if not t.ok
        ]
        if not self.ok and not lines:
            lines = [f"{self.name}: training loss {self.loss}, checked {self.checked_loss}"]
        return lines

    def to_json(self) -> dict[str, Any]:
        """A dict for ``json.dumps``; numbers that are not finite become strings."""
        data: dict[str, Any] = plain(asdict(self))
        data["ok"] = self.ok
        return data


def compare(name: str, function: ModelFunction, train: TrainingGradient) -> PathReport:
    """Compare what ``train`` makes of ``function`` with its own float64 gradient."""
    function.value()
    note = ""
    if function.kink_margin() < SAFE_MARGIN:
        note = f"a ReLU input lies {function.kink_margin():.1e} from its kink"
    checked_loss = function.step()
    loss, gradient = train(function)
    layout = function.model.layout
    checked, trained = layout.named(function.gradient), layout.named(gradient)
    total = float(np.linalg.norm(function.gradient))
    tensors = []
    for tensor, g in checked.items():
        norm = float(np.linalg.norm(g.ravel()))
        zero = norm <= ZERO * total
        reference = total if zero else norm
        difference = float(np.linalg.norm((trained[tensor].astype(np.float64) - g).ravel()))
        error = difference / reference if reference > 0 else (math.inf if difference else 0.0)
        tensors.append(Agreement(tensor, g.shape, error, reference, zero))
    return PathReport(name, loss, checked_loss, tensors, note)
