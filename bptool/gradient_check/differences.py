"""Derivatives of a function along a line by central differences, with the step chosen by trial.

Central differences at h, h/2 and h/4 are extrapolated twice (Richardson 1911), which leaves an
error of order h^6. How far the extrapolations differ bounds what is left of the truncation, and
the measured rounding noise over h bounds the rounding; the step is halved or doubled while the
larger of the two can be made smaller. The gradient under test plays no part in the choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

EPS = float(np.finfo(np.float64).eps)
MAX_TRIALS = 40


@dataclass(frozen=True)
class Point:
    """The function at a point of the line. ``crossed`` names the kinks passed on the way."""

    value: float
    crossed: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        return math.isfinite(self.value) and not self.crossed


Line = Callable[[float], Point]
"""The function at signed distance h from the point under test."""


@dataclass(frozen=True)
class Derivative:
    value: float
    uncertainty: float
    step: float
    crossed: frozenset[str]
    """Kinks that larger steps met."""

    @property
    def found(self) -> bool:
        return math.isfinite(self.value) and math.isfinite(self.uncertainty)


def rounding_noise(line: Line, step: float) -> float:
    """Standard deviation of the rounding errors of the function near the point.

    From a table of differences at eight points so close together that the differences of third
    and higher order hold nothing but rounding (More and Wild, "Estimating computational noise",
    2011).
    """
    values = np.array([line(i * step).value for i in range(8)])
    if not np.all(np.isfinite(values)):
        return math.inf
    table = values
    estimates = []
    for order in range(1, 7):
        table = np.diff(table)
        if order >= 3:
            factor = math.factorial(order) ** 2 / math.factorial(2 * order)
            estimates.append(math.sqrt(factor * float(np.mean(table * table))))
    return max(max(estimates), EPS * float(np.max(np.abs(values))) / 2)


def derivative(
    line: Line, first_step: float, noise: float, target: Callable[[float], float]
) -> Derivative:
    """The derivative at 0 of ``line``, trying steps from ``first_step`` by factors of 4.

    Args:
        noise: rounding noise of one evaluation.
        target: from a derivative, the uncertainty at which to stop trying.
    """
    quotients: dict[int, tuple[float, float]] = {}
    crossed: set[str] = set()

    def quotient(k: int) -> tuple[float, float]:
        """Central difference with step ``first_step / 2**k``, and its rounding error."""
        if k not in quotients:
            h = first_step * 2.0**-k
            right = line(h)
            left = line(-h) if right.usable else right
            crossed.update(right.crossed, left.crossed)
            if right.usable and left.usable:
                size = max(abs(right.value), abs(left.value))
                error = (noise + EPS * size) / h
                quotients[k] = ((right.value - left.value) / (2 * h), error)
            else:
                quotients[k] = (math.nan, math.inf)
        return quotients[k]

    def estimate(k: int) -> tuple[Derivative, bool]:
        """Extrapolation from steps k, k+1, k+2, and whether a larger step could be better."""
        d0, _ = quotient(k)
        if not math.isfinite(d0):
            return Derivative(math.nan, math.inf, 0.0, frozenset()), False
        d1, _ = quotient(k + 1)
        d2, rounding = quotient(k + 2)
        a1 = (4 * d1 - d0) / 3
        a2 = (4 * d2 - d1) / 3
        value = (16 * a2 - a1) / 15
        # The second term guards against a1 and a2 agreeing by chance.
        truncation = max(abs(value - a2), 1e-3 * abs(d2 - d1))
        step = first_step * 2.0**-k
        total = Derivative(value, truncation + rounding, step, frozenset())
        if not total.found:
            return Derivative(math.nan, math.inf, 0.0, frozenset()), False
        return total, rounding > truncation

    best, larger_helps = estimate(0)
    k = 0
    direction = -2 if larger_helps else 2
    worse = 0
    for _ in range(MAX_TRIALS):
        if best.found and best.uncertainty <= target(best.value):
            break
        trial, larger_helps = estimate(k + direction)
        if trial.uncertainty < best.uncertainty:
            best, worse = trial, 0
        elif best.found:
            worse += 1
            if worse == 2:
                break
        k += direction
        if not trial.found and direction < 0:
            break
    return Derivative(best.value, best.uncertainty, best.step, frozenset(crossed))
