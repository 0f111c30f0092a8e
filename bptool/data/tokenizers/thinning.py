"""How much of a text a byte-pair vocabulary can be learnt from within a limit of memory.

What learning needs grows with the *different* words and their length. These are counted for the
whole text and for every second, fourth, ... slice of it at once, by hashing words into a bit map
for each (linear counting: Whang, Vander-Zanden, Taylor 1990, "A linear-time probabilistic counting
algorithm for database applications"). Once a share of the text would pass the limit it is not
looked at further, so that a long text costs little more than the share that is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

BYTES_PER_WORD, BYTES_PER_BYTE = 120, 78
"""Of memory that the tokenizers library takes for a different word, and for each byte of it; see
docs/experiments.md."""
LEVELS = 14
"""The smallest share is one slice in 2 ** (LEVELS - 1)."""
_BITS = 22
_BLOCK = 1 << 18
_ODD = 0x9E3779B97F4A7C15


def thinning(slices: Iterable[str], limit: int) -> int:
    """The smallest ``k`` for which every ``k``-th slice can be learnt from within ``limit`` bytes.

    It is a power of two, and the same for the same slices.
    """
    levels = [_Level() for _ in range(LEVELS)]
    lowest = 0
    for number, text in enumerate(slices):
        if number % (1 << lowest):
            continue
        words, lengths = _words(text)
        for level in range(lowest, LEVELS):
            if number % (1 << level):
                break
            levels[level].add(words, lengths)
        while lowest < LEVELS - 1 and levels[lowest].memory() > limit:
            lowest += 1
    return 1 << lowest


class _Level:
    """Words of one share of the text."""

    def __init__(self) -> None:
        self._seen: NDArray[np.bool_] = np.zeros(1 << _BITS, bool)
        self._n_seen = self._n_bytes = 0

    def add(self, words: NDArray[np.uint64], lengths: NDArray[np.int64]) -> None:
        places, first = np.unique(words >> np.uint64(64 - _BITS), return_index=True)
        new = ~self._seen[places]
        self._n_seen += int(new.sum())
        self._n_bytes += int(lengths[first][new].sum())
        self._seen[places] = True

    def memory(self) -> float:
        """Bytes that learning from these words takes, about."""
        size = 1 << _BITS
        if self._n_seen == 0:
            return 0.0
        if self._n_seen == size:
            return math.inf
        n_words = -size * math.log1p(-self._n_seen / size)
        return n_words * (BYTES_PER_WORD + BYTES_PER_BYTE * self._n_bytes / self._n_seen)


def _classes() -> NDArray[np.int8]:
    """White space, letters (all that is not ASCII too), digits, the rest."""
    found = np.full(256, 3, np.int8)
    found[[*b" \t\n\v\f\r"]] = 0
    found[[i for i in range(256) if i >= 128 or chr(i).isalpha()]] = 1
    found[[*b"0123456789"]] = 2
    return found


_CLASSES = _classes()
_POWERS = np.cumprod(np.full(_BLOCK, _ODD, np.uint64))
_INVERSES = np.cumprod(np.full(_BLOCK, pow(_ODD, -1, 1 << 64), np.uint64))


def _words(text: str) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hashes of the words of ``text``, and their bytes with the space before."""
    data = np.frombuffer(text.encode("utf-8"), np.uint8)
    hashes, lengths = [], []
    for at in range(0, len(data), _BLOCK):
        block = data[at : at + _BLOCK]
        kinds = _CLASSES[block]
        bounds = np.flatnonzero(np.diff(kinds)) + 1
        starts, ends = np.append(0, bounds), np.append(bounds, len(block))
        kept = kinds[starts] != 0
        starts, ends = starts[kept], ends[kept]
        sums = np.zeros(len(block) + 1, np.uint64)
        np.cumsum((block.astype(np.uint64) + np.uint64(1)) * _POWERS[: len(block)], out=sums[1:])
        # the word's own polynomial, wherever it stands
        found = (sums[ends] - sums[starts]) * _INVERSES[starts]
        found ^= found >> np.uint64(32)
        hashes.append(found * np.uint64(_ODD))
        lengths.append(ends - starts + 1)
    if not hashes:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    return np.concatenate(hashes), np.concatenate(lengths)
