"""Texts to token ids by byte-pair encoding: each word is looked up, or its bytes are merged.

A table holds the ids of words of up to ``KEPT_BYTES`` bytes that were merged before. A word takes
the slot of its hash from another, so that the table keeps its size and holds what is frequent. It
makes encoding faster and decides no id.
Shapes: data (n,) uint8, UTF-8; see ``words.py`` and ``byte_pairs.py`` for kinds and pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptool.ops.byte_pairs import ODD, make_room, merge
from bptool.ops.jit import kernel
from bptool.ops.words import word_end

KEPT_BYTES, KEPT_IDS = 32, 7
_SLOT_BITS = 16
_SHIFT = np.uint64(64 - _SLOT_BITS)
SHORT = 256
"""Bytes of a word up to which no memory has to be asked for."""


def make_memory() -> tuple[NDArray[Any], ...]:
    """What one thread at a time encodes with: words kept, their ids, and room to merge in."""
    words = np.zeros((1 << _SLOT_BITS, KEPT_BYTES // 8), np.uint64)
    ids = np.zeros((1 << _SLOT_BITS, 1 + KEPT_IDS), np.int32)  # first 256 * bytes + number of ids
    return (words, ids, *make_room(SHORT))


@kernel
def _packed(data, at, stop):  # type: ignore[no-untyped-def]
    """Up to eight bytes as one number."""
    found = np.uint64(0)
    for i in range(min(stop - at, 8)):
        found |= np.uint64(data[at + i]) << np.uint64(8 * i)
    return found


@kernel
def _merged(data, at, stop, pairs, tokens, values, heap, out, n_out):  # type: ignore[no-untyped-def]
    if stop - at > SHORT:
        tokens, values, heap = make_room(stop - at)
    return merge(data, at, stop, pairs, tokens, values, heap, out, n_out)


@kernel
def encode(data, ends, kinds, pairs, memory, out, counts):  # type: ignore[no-untyped-def]
    """Write the ids of texts that stand one behind the other in ``data``.

    Args:
        data: the texts. ends: (t,) int64, where each ends. kinds, pairs: the tables.
        memory: of :func:`make_memory`. out: (n,) int32, the ids.
        counts: (t,) int64, how many ids there are up to the end of each text.
    """
    words, ids, tokens, values, heap = memory
    at = n_out = 0
    for text in range(len(ends)):
        while at < ends[text]:
            # A call with so many arrays costs more than a look-up: only what is merged is one.
            stop = word_end(data, at, ends[text], kinds)
            n = stop - at
            a, b = _packed(data, at, stop), _packed(data, at + 8, stop)
            c, d = _packed(data, at + 16, stop), _packed(data, at + 24, stop)
            i = np.int64((((a * ODD ^ b) * ODD ^ c) * ODD ^ d) * ODD >> _SHIFT)
            same = words[i, 0] == a and words[i, 1] == b and words[i, 2] == c and words[i, 3] == d
            if same and ids[i, 0] >> 8 == n:
                n_ids = ids[i, 0] & 0xFF
                for j in range(n_ids):
                    out[n_out + j] = ids[i, 1 + j]
            else:
                end = _merged(data, at, stop, pairs, tokens, values, heap, out, n_out)
                n_ids = end - n_out
                if n <= KEPT_BYTES and n_ids <= KEPT_IDS:
                    words[i, 0], words[i, 1], words[i, 2], words[i, 3] = a, b, c, d
                    ids[i, 0] = n << 8 | n_ids
                    for j in range(n_ids):
                        ids[i, 1 + j] = out[n_out + j]
            n_out += n_ids
            at = stop
        counts[text] = n_out
