"""The Taylor test: what a gradient leaves over must vanish with the square of the step.

R(h) = |f(x + h v) - f(x) - h g.v| falls with slope 2 in log-log when g is the gradient, and with
slope 1 once the step is small enough to show the error when it is not. The slope is fitted to the
smallest steps whose remainder stands clear of rounding, since only they are asymptotic.
"""

from __future__ import annotations

import numpy as np

from bptool.gradient_check.differences import EPS, Line
from bptool.gradient_check.report import Taylor

SLOPE = 1.9
N_FITTED = 6
MIN_FITTED = 5
"""Four halvings."""
MAX_HALVINGS = 44
CLEAR_OF_ROUNDING = 60.0
"""A remainder counts from this many standard deviations of the noise."""


def taylor_test(
    line: Line, value: float, slope: float, first_step: float, noise: float, accepted: float
) -> Taylor:
    """Halve the step from ``first_step`` until the remainder drowns in rounding; fit the slope.

    Args:
        value: f(x).
        slope: g.v, under test.
        noise: rounding noise of one evaluation.
        accepted: rounding error to allow g.v itself; a remainder that it could explain says
            nothing and is left out with those under the rounding floor.
    """
    steps: list[float] = []
    remainders: list[float] = []
    n_under_floor = n_past_kink = n_in_a_row = 0
    h = first_step
    for _ in range(MAX_HALVINGS):
        point = line(h)
        if not point.usable:
            n_past_kink += 1
            steps, remainders = [], []
        else:
            remainder = abs(point.value - value - h * slope)
            rounding = noise + EPS * max(abs(point.value), abs(value), abs(h * slope))
            if remainder <= CLEAR_OF_ROUNDING * rounding + h * accepted:
                n_under_floor += 1
                n_in_a_row += 1
                # One alone may be the remainder changing its sign.
                if n_in_a_row == 3:
                    break
            else:
                n_in_a_row = 0
                steps.append(h)
                remainders.append(remainder)
        h /= 2
    if not steps:
        verdict = "flat" if n_past_kink < MAX_HALVINGS else "short"
        return Taylor(verdict, None, 0, n_under_floor, n_past_kink)
    fitted = min(N_FITTED, len(steps))
    if fitted < MIN_FITTED:
        return Taylor("short", None, fitted, n_under_floor, n_past_kink)
    measured = fit_slope(steps[-fitted:], remainders[-fitted:])
    if measured >= SLOPE:
        verdict = "ok"
    elif fit_slope(steps[-3:], remainders[-3:]) >= SLOPE:
        # Steep at the smallest steps only: rounding begins before four halvings are asymptotic.
        # A wrong gradient is the other way round.
        verdict = "short"
    else:
        verdict = "fail"
    return Taylor(verdict, measured, fitted, n_under_floor, n_past_kink)


def fit_slope(steps: list[float], remainders: list[float]) -> float:
    """Least-squares slope of log remainder against log step."""
    x = np.log(np.array(steps))
    y = np.log(np.array(remainders))
    x = x - x.mean()
    return float(np.sum(x * y) / np.sum(x * x))
