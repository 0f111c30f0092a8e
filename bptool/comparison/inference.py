"""Statistical inference on paired differences between optimizers.

Two optimizers share seeds (initial weights, batches, masks), so what is tested is the mean of
their differences, seed by seed. The whole of a workload's table is one family of tests, each
optimizer against the reference: its single-step Sidak correction makes the chance of any false
alarm in the table ``alpha``, with p-values 1 - (1 - p)^m and simultaneous intervals of level
(1 - alpha)^(1/m), which say the same thing: a p-value is below ``alpha`` exactly where its interval
leaves out 0. Sidak's bound is exact for independent tests and slightly on the safe side for tests
that share a reference (4.5 to 4.9 % in place of 5 % for 3 to 18 optimizers at 5 seeds; see
``docs/comparison.md``). Holm's step-down p-values would reject a little more, but no interval of
use goes with them; Dunnett's test (one pooled variance) takes all optimizers to be equally noisy,
which they are not.

Sources: Sidak 1967, JASA 62, "Rectangular Confidence Regions for the Means of Multivariate Normal
Distributions". All distributions and tests are scipy's.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from bptool.errors import ConfigError

Test = Literal["paired-t", "wilcoxon"]
Verdict = Literal["better", "worse", "tie", "identical", "unknown"]
POWER = 0.8
"""Of the smallest difference that a study could have seen."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval; the ends are NaN for a single value."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """An optimizer's loss less the reference's (nats per token), seed by seed."""

    n: int
    interval: Interval
    """Simultaneous over the family."""
    p: float
    """Corrected for the family; NaN where nothing can be tested."""
    verdict: Verdict
    detectable: float
    """The smallest true difference that such a study finds with probability ``POWER``, given the
    spread that it met."""
    equivalent: bool
    """The whole interval lies within the margin: any difference is too small to matter."""


def mean_interval(values: Sequence[float], alpha: float) -> Interval:
    """Mean with the t interval of level 1 - ``alpha``."""
    return _t_interval(np.asarray(values, np.float64), alpha)


def sidak_level(alpha: float, m: int) -> float:
    """The level of each of ``m`` tests at which the chance of any false alarm is ``alpha``."""
    return -math.expm1(math.log1p(-alpha) / m)


def sidak_p(p: float, m: int) -> float:
    """A p-value corrected for ``m`` tests."""
    return 1.0 if p >= 1.0 else -math.expm1(m * math.log1p(-p))


def least_p(test: Test, n: int) -> float:
    """The smallest two-sided p-value that ``n`` pairs can give; 1 if they can give none."""
    if n < 2:
        return 1.0
    return 0.0 if test == "paired-t" else min(1.0, 2.0 ** (1 - n))


def require_power_to_reject(test: Test, n: int, m: int, alpha: float) -> None:
    """Refuse a test that can never reject with ``n`` seeds and ``m`` comparisons.

    Raises:
        ConfigError: its smallest p-value is not below ``alpha``.
    """
    if test == "paired-t" or m == 0:
        return  # with one seed there is no test, and reports say so
    least = sidak_p(least_p(test, n), m)
    if least < alpha:
        return
    enough = next(k for k in range(n, 200) if sidak_p(least_p(test, k), m) < alpha)
    raise ConfigError(
        f"test {test} cannot reject at {n} seeds: with {m} comparisons its smallest p-value is "
        f"{least:.2g}, not below {alpha:g}; take test: paired-t, or final.seeds: {enough}"
    )


def compare(
    values: Sequence[float],
    reference: Sequence[float],
    *,
    m: int,
    alpha: float,
    margin: float,
    test: Test = "paired-t",
) -> Difference:
    """Test the mean of paired differences, as one of a family of ``m``.

    Args:
        values, reference: losses of the same seeds in the same order.
        margin: difference (in nats per token) below which nothing matters.
    """
    differences = np.asarray(values, np.float64) - np.asarray(reference, np.float64)
    n, level = len(differences), sidak_level(alpha, m)
    interval = _t_interval(differences, level)
    if n and not differences.any():
        zero = Interval(0.0, 0.0, 0.0)
        return Difference(n, zero, 1.0, "identical", 0.0, True)
    if n < 2:
        return Difference(n, interval, math.nan, "unknown", math.nan, False)
    p = _p_value(differences, test)
    if test == "wilcoxon":
        interval = _walsh_interval(differences, level)
    spread = float(differences.std(ddof=1))
    detectable = _noncentrality(n, level) * spread / math.sqrt(n)
    equivalent = -margin < interval.low and interval.high < margin
    verdict: Verdict = "tie"
    if interval.low > 0.0:
        verdict = "worse"
    elif interval.high < 0.0:
        verdict = "better"
    return Difference(n, interval, sidak_p(p, m), verdict, detectable, equivalent)


def _t_interval(values: Floats, alpha: float) -> Interval:
    n = len(values)
    mean = float(values.mean()) if n else math.nan
    if n < 2:
        return Interval(mean, math.nan, math.nan)
    error = float(values.std(ddof=1)) / math.sqrt(n)
    half = _t_quantile(n - 1, alpha) * error
    return Interval(mean, mean - half, mean + half)


@functools.lru_cache(maxsize=256)
def _t_quantile(df: int, alpha: float) -> float:
    return float(stats.t.isf(alpha / 2, df))


def _p_value(differences: Floats, test: Test) -> float:
    if test == "wilcoxon":
        return float(stats.wilcoxon(differences).pvalue)
    if np.ptp(differences) == 0.0:
        return 0.0  # a difference without any spread
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def _walsh_interval(differences: Floats, alpha: float) -> Interval:
    """The shifts that the signed-rank test does not reject, around the Hodges-Lehmann estimate.

    Its ends are among the means of all pairs (Hollander and Wolfe 1999, section 3.3); it is the
    whole line where the test rejects no shift.
    """
    first, second = np.triu_indices(len(differences))
    means = np.sort((differences[first] + differences[second]) / 2)
    low, high = -math.inf, math.inf
    for k, (left, right) in enumerate(itertools.pairwise(means), 1):
        if _p_value(differences - (left + right) / 2, "wilcoxon") >= alpha:
            break
        low, high = float(means[k]), float(means[-k - 1])
    if _p_value(differences - (means[0] - 1.0), "wilcoxon") < alpha and low == -math.inf:
        low, high = float(means[0]), float(means[-1])
    return Interval(float(np.median(means)), low, high)


@functools.lru_cache(maxsize=256)
def _noncentrality(n: int, alpha: float) -> float:
    """How many standard errors a difference must be for ``POWER`` at level ``alpha``."""
    df, critical = n - 1, _t_quantile(n - 1, alpha)

    def shortfall(shift: float) -> float:
        # The other tail adds less than alpha / 2 at shift 0 and nothing to speak of further on.
        return float(stats.nct.sf(critical, df, shift)) - POWER

    return float(optimize.brentq(shortfall, 0.0, critical * (2.0 + 4.0 / df)))
