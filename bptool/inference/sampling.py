"""Choosing the next token from logits: temperature, top-k, top-p.

The draw is a pure function of (seed, sample, position), so the same seed gives the same text, and
a sample does not depend on how many others are drawn beside it. Filters apply in the order
temperature, top-k (Fan et al. 2018), top-p (Holtzman et al. 2020, "nucleus").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bptool.errors import ConfigError
from bptool.models.base import Array
from bptool.ops.uniform import uniforms

_STREAM = 0x5A3B_1E00
_ELEMENTS_AT_ONCE = 1 << 17
"""Of logits, whose probabilities stay in the cache until they are drawn from."""


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
        """Distributions in float64 that tokens are drawn from, for logits (V,) or (n, V)."""
        scores = logits.astype(np.float64, order="C")
        n_vocab = scores.shape[-1]
        if self.temperature == 0:
            p = np.zeros_like(scores)
            np.put_along_axis(p, scores.argmax(axis=-1, keepdims=True), 1.0, axis=-1)
            return p
        with np.errstate(invalid="ignore"):  # a diverged model's logits give NaN, and no warning
            scores = (scores - scores.max(axis=-1, keepdims=True)) / self.temperature
        if self.top_k is not None and self.top_k < n_vocab:
            for row in scores.reshape(-1, n_vocab):
                row[~_likeliest(row, self.top_k)] = -np.inf
        p = np.exp(scores)
        p /= p.sum(axis=-1, keepdims=True)
        if self.top_p is not None and self.top_p < 1:
            for row in p.reshape(-1, n_vocab):
                row[~_nucleus(row, self.top_p)] = 0.0
            p /= p.sum(axis=-1, keepdims=True)
        return p

    def choose(self, logits: Array, sample: int, position: int) -> int:
        """The token id drawn from logits (V,) for the given sample and position."""
        return self.choose_all(logits[np.newaxis], [sample], position)[0]

    def choose_all(self, logits: Array, samples: Sequence[int], position: int) -> list[int]:
        """The token ids drawn from logits (n, V), each as :meth:`choose` draws for its sample."""
        n, n_vocab = logits.shape
        draws = np.empty(n)
        uniforms(draws, np.asarray(samples, np.uint64), position, self.seed, _STREAM)
        at_once = max(1, _ELEMENTS_AT_ONCE // n_vocab)
        return [
            token
            for first in range(0, n, at_once)
            for token in self._drawn(logits[first : first + at_once], draws[first:])
        ]

    def _drawn(self, logits: Array, draws: Array) -> list[int]:
        """Token ids for logits (n, V) and n or more numbers in [0, 1)."""
        p = self.probabilities(logits)
        cumulative = np.cumsum(p, axis=1)
        drawn = draws[: len(p)] * cumulative[:, -1]
        tokens = np.count_nonzero(cumulative <= drawn[:, np.newaxis], axis=1)
        for i in np.flatnonzero(tokens == p.shape[1]):
            tokens[i] = np.flatnonzero(p[i])[-1]  # rounding put the draw at the very end
        found: list[int] = tokens.tolist()
        return found


def _likeliest(scores: Array, k: int) -> Array:
    """Mask of the k largest; ties at the edge are kept in order of token id, so that exactly k
    remain."""
    edge = np.partition(scores, scores.size - k)[scores.size - k]
    kept: Array = scores > edge
    kept[np.flatnonzero(scores == edge)[: k - int(kept.sum())]] = True
    return kept


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
