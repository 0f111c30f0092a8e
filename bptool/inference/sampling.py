"""Choosing the next token from logits: temperature, top-k, top-p.

The draw is a pure function of (seed, sample, position), so the same seed gives the same text, and
a sample does not depend on how many others are drawn beside it. Filters apply in the order
temperature, top-k (Fan et al. 2018), top-p (Holtzman et al. 2020, "nucleus").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bptool.errors import ConfigError
from bptool.models.base import Array

_STREAM = 0x5A3B_1E00


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: keeps the so many likeliest tokens. top_p: keeps the likeliest tokens whose
            probabilities first add up to so much.
        seed: fixes every draw.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 1000:
            raise ConfigError(f"temperature is {self.temperature}; give a number from 0 to 1000")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top-k is {self.top_k}; give a whole number of at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top-p is {self.top_p}; give a number above 0 and at most 1")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed is {self.seed}; give a whole number from 0 to 2^63 - 1")

    def probabilities(self, logits: Array) -> Array:
        """Distribution (V,) in float64 that the token is drawn from, for logits (V,)."""
        scores = logits.astype(np.float64)
        if self.temperature == 0:
            p = np.zeros_like(scores)
            p[int(np.argmax(scores))] = 1.0
            return p
        scores = (scores - scores.max()) / self.temperature
        if self.top_k is not None and self.top_k < scores.size:
            # ties at the edge are kept in order of token id, so that exactly k remain
            edge = np.partition(scores, scores.size - self.top_k)[scores.size - self.top_k]
            above = scores > edge
            level = np.flatnonzero(scores == edge)[: self.top_k - int(above.sum())]
            above[level] = True
            scores[~above] = -np.inf
        p = np.exp(scores)
        p /= p.sum()
        if self.top_p is not None and self.top_p < 1:
            p[~_nucleus(p, self.top_p)] = 0.0
            p /= p.sum()
        return p

    def choose(self, logits: Array, sample: int, position: int) -> int:
        """The token id drawn from logits (V,) for the given sample and position."""
        p = self.probabilities(logits)
        cumulative = np.cumsum(p)
        drawn = self._uniform(sample, position) * cumulative[-1]
        token = int(np.searchsorted(cumulative, drawn, side="right"))
        if token < p.size and p[token] > 0:
            return token
        return int(np.flatnonzero(p)[-1])  # rounding put the draw at the very end

    def _uniform(self, sample: int, position: int) -> float:
        """A number in [0, 1) from Philox, keyed by seed and counted by sample and position."""
        counter = np.array([0, position, sample, 0], np.uint64)
        key = np.array([self.seed, _STREAM], np.uint64)
        word = int(np.random.Philox(key=key, counter=counter).random_raw())
        return (word >> 11) * 2.0**-53


def _nucleus(p: Array, mass: float) -> Array:
    """Mask of the likeliest tokens whose probabilities first add up to ``mass``.

    Only the likeliest are sorted, more of them until they suffice: sorting a large vocabulary would
    take longer than everything else about a token. Ties are kept in order of token id.
    """
    n_sorted = 256
    kept = np.zeros(p.size, bool)
    while True:
        candidates = np.arange(p.size)
        if n_sorted < p.size:
            edge = np.partition(p, p.size - n_sorted)[p.size - n_sorted]
            candidates = np.flatnonzero(p >= edge)  # with every tie of the edge, so in order
        order = candidates[np.argsort(-p[candidates], kind="stable")]
        total = np.cumsum(p[order])
        if total[-1] >= mass or candidates.size == p.size:
            kept[order[total - p[order] < mass]] = True
            return kept
        n_sorted *= 8
