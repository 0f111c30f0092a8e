"""Philox 4x32-10: random words as a pure function of a key and a counter.

Ten rounds of two 32 x 32 -> 64 bit products, swaps and exclusive-ors; the key grows by the Weyl
constants each round. One call turns a 128-bit counter into four 32-bit words.
Source: Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import numpy as np

from bptool.ops.jit import kernel

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
_32 = np.uint64(32)


@kernel
def philox(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    """Four uint32 words from four counter words and two key words (all uint32)."""
    for _ in range(10):
        p0 = _M0 * np.uint64(c0)
        p1 = _M1 * np.uint64(c2)
        high0, low0 = np.uint32(p0 >> _32), np.uint32(p0)
        high1, low1 = np.uint32(p1 >> _32), np.uint32(p1)
        c0, c1 = np.uint32(high1 ^ c1 ^ k0), low1
        c2, c3 = np.uint32(high0 ^ c3 ^ k1), low0
        k0 = np.uint32(k0 + _W0)
        k1 = np.uint32(k1 + _W1)
    return c0, c1, c2, c3
