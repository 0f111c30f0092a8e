"""Byte-pair encoding of a word: of its neighbouring tokens, those whose pair was learnt first are
merged, the leftmost first, until no pair was learnt.

Shapes: data (n,) uint8; pairs (2**k, 2) int64, a hash table of pairs, and of their rank and what
they make; ids of tokens are below 2**24. A heap of pairs by rank and place makes a word of n bytes
cost O(n log n).
Source: Sennrich, Haddow, Birch 2016, "Neural machine translation of rare words with subword units".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptool.ops.jit import kernel

ODD = np.uint64(0x9E3779B97F4A7C15)
"""Spreads what is multiplied by it over the upper bits."""
_NONE = 1 << 62
_ID_BITS = 24
_ID = (1 << _ID_BITS) - 1
_PLACE = (1 << 32) - 1


def make_pairs(merges: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """The table of ``merges`` (m, 2), in the order they were learnt, and of the ``ids`` (m,) they
    make."""
    size = 2
    while size < 2 * len(merges):
        size *= 2
    pairs = np.full((size, 2), -1, np.int64)
    _fill(pairs, merges, ids)
    return pairs


def _make_room(n: int) -> Any:
    return (
        np.empty((n, 3), np.int32),  # id, and the places of the tokens before and behind
        np.empty(n, np.int64),  # what the token and the one behind make
        np.empty(2 * n, np.int64),  # the heap
    )


make_room = kernel(_make_room)
"""Where a word of ``n`` bytes is merged."""


@kernel
def _slot(key, size):  # type: ignore[no-untyped-def]
    h = np.uint64(key) * ODD
    return np.int64(h >> np.uint64(32)) & (size - 1)


@kernel
def _fill(pairs, merges, ids):  # type: ignore[no-untyped-def]
    size = pairs.shape[0]
    for rank in range(len(merges)):
        key = merges[rank, 0] << _ID_BITS | merges[rank, 1]
        at = _slot(key, size)
        while pairs[at, 0] >= 0 and pairs[at, 0] != key:
            at = (at + 1) & (size - 1)
        pairs[at, 0] = key
        pairs[at, 1] = rank << _ID_BITS | ids[rank]


@kernel
def _merged(pairs, left, right):  # type: ignore[no-untyped-def]
    """Rank and id of what the pair makes, in one number; ``_NONE`` where it was not learnt."""
    size = pairs.shape[0]
    key = np.int64(left) << _ID_BITS | np.int64(right)
    at = _slot(key, size)
    while True:
        found = pairs[at, 0]
        if found == key:
            return pairs[at, 1]
        if found < 0:
            return _NONE
        at = (at + 1) & (size - 1)


@kernel
def _push(heap, n, item):  # type: ignore[no-untyped-def]
    at = n
    while at > 0 and heap[(at - 1) >> 1] > item:
        heap[at] = heap[(at - 1) >> 1]
        at = (at - 1) >> 1
    heap[at] = item


@kernel
def _pop(heap, n):  # type: ignore[no-untyped-def]
    """Take out the least of ``n``."""
    item, at = heap[n - 1], 0
    while True:
        below = 2 * at + 1
        if below >= n - 1:
            break
        if below + 1 < n - 1 and heap[below + 1] < heap[below]:
            below += 1
        if heap[below] >= item:
            break
        heap[at] = heap[below]
        at = below
    heap[at] = item


@kernel
def merge(data, at, stop, pairs, tokens, values, heap, out, n_out):  # type: ignore[no-untyped-def]
    """Append the ids of one word to ``out``; how many are there then."""
    n, waiting = stop - at, 0
    for i in range(n):
        tokens[i, 0], tokens[i, 1], tokens[i, 2] = data[at + i], i - 1, i + 1
    values[n - 1] = _NONE
    for i in range(n - 1):
        values[i] = _merged(pairs, data[at + i], data[at + i + 1])
        if values[i] != _NONE:
            _push(heap, waiting, values[i] >> _ID_BITS << 32 | i)
            waiting += 1
    while waiting > 0:
        item = heap[0]
        _pop(heap, waiting)
        waiting -= 1
        i = item & _PLACE
        if values[i] >> _ID_BITS != item >> 32:
            continue  # one of the two has become part of another token since
        taken = tokens[i, 2]
        tokens[i, 0] = values[i] & _ID
        behind, before = tokens[taken, 2], tokens[i, 1]
        tokens[i, 2] = behind
        values[taken] = values[i] = _NONE
        if behind < n:
            tokens[behind, 1] = i
            values[i] = _merged(pairs, tokens[i, 0], tokens[behind, 0])
            if values[i] != _NONE:
                _push(heap, waiting, values[i] >> _ID_BITS << 32 | i)
                waiting += 1
        if before >= 0:
            values[before] = _merged(pairs, tokens[before, 0], tokens[i, 0])
            if values[before] != _NONE:
                _push(heap, waiting, values[before] >> _ID_BITS << 32 | before)
                waiting += 1
    i = 0
    while i < n:
        out[n_out] = tokens[i, 0]
        n_out += 1
        i = tokens[i, 2]
    return n_out
