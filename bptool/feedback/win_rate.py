"""How often the answers of one model beat those of another, with an interval.

A win counts 1, a tie one half. The interval is Wilson's at 95 %, with the number of prompts as the
number of trials: exact enough without ties, and with ties too wide rather than too narrow, since a
half varies less than a win or a loss.
Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class WinRate:
    """Of A over B, on ``n`` prompts."""

    wins: int
    ties: int
    losses: int

    @property
    def n(self) -> int:
        return self.wins + self.ties + self.losses

    @property
    def rate(self) -> float:
        """Wins and half the ties, as a share."""
        return (self.wins + 0.5 * self.ties) / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of :attr:`rate`."""
        return wilson(self.rate, self.n)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        low, high = self.interval
        counts = {"wins": self.wins, "ties": self.ties, "losses": self.losses}
        return {"win_rate": self.rate, "interval_95": [low, high], "n_prompts": self.n, **counts}


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of ``n`` trials; all there is where there are none."""
    from scipy.stats import norm

    if n == 0:
        return 0.0, 1.0
    z2 = float(norm.ppf(0.975)) ** 2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2) / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def count(first: Sequence[float], second: Sequence[float]) -> WinRate:
    """The win rate of two lists of scores, prompt by prompt."""
    pairs = list(zip(first, second, strict=True))
    wins, losses = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
    return WinRate(wins, len(pairs) - wins - losses, losses)
