"""What a check found, as plain data that can be written as JSON."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Probe:
    """One derivative: by finite differences, and from the gradient."""

    where: str
    """``"[3, 4]"`` for an element, ``"direction 2"`` for a random direction."""
    finite_difference: float
    gradient: float
    tolerance: float
    uncertainty: float
    """Estimated error of ``finite_difference`` itself."""
    step: float
    ratio: float
    """``|finite_difference - gradient| / tolerance``; agreement is at most 1."""


@dataclass(frozen=True)
class Taylor:
    """The remainder |f(x+hv) - f(x) - h g.v| over halvings of h."""

    verdict: str
    """``ok``; ``fail`` (slope under 1.9); ``flat`` (no remainder above rounding at any step);
    ``short`` (fewer than 4 halvings between the kinks and the rounding floor)."""
    slope: float | None
    n_points: int
    """Points the slope was fitted to."""
    n_under_floor: int
    n_past_kink: int


@dataclass(frozen=True)
class TensorReport:
    """The check of one tensor. ``ok`` is true exactly when ``problems`` is empty."""

    name: str
    shape: tuple[int, ...]
    gradient_norm: float
    n_elements_checked: int
    n_directions: int
    n_left_out: int
    """Probes that no step could resolve; others were drawn in their place."""
    kinks: dict[str, int]
    """Kinks that were stepped around: name, and number of probes whose step had to shrink."""
    worst: Probe | None
    """The probe with the largest ``ratio``."""
    worst_element: Probe | None
    taylor: Taylor | None
    problems: list[str] = field(default_factory=list)
    note: str = ""

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass(frozen=True)
class Report:
    """The check of one function."""

    name: str
    value: float
    noise: float
    """Measured rounding noise of the value (one standard deviation)."""
    n_evaluations: int
    tensors: list[TensorReport]
    problems: list[str] = field(default_factory=list)
    """What is wrong with the function as a whole: not repeatable, not finite."""

    @property
    def ok(self) -> bool:
        return not self.problems and bool(self.tensors) and all(t.ok for t in self.tensors)

    def failures(self) -> list[str]:
        """Every problem, one line each, with the tensor it concerns."""
        lines = [f"{self.name}: {problem}" for problem in self.problems]
        for tensor in self.tensors:
            lines += [f"{self.name}: {tensor.name}: {problem}" for problem in tensor.problems]
        return lines

    def to_json(self) -> dict[str, Any]:
        """A dict for ``json.dumps``; numbers that are not finite become strings."""
        data = dataclasses.asdict(self)
        for tensor, entry in zip(self.tensors, data["tensors"], strict=True):
            entry["ok"] = tensor.ok
        data["ok"] = self.ok
        values = plain(data)
        assert isinstance(values, dict)
        return values


def plain(value: Any) -> Any:
    """``value`` with every number that JSON cannot hold as a string."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
