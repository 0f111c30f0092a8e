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
ROUNDS = 10


@kernel
def philox(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    """Four uint32 words from four counter words and two key words (all uint32)."""
    for _ in range(ROUNDS):
        p0 = _M0 * np.uint64(c0)
        p1 = _M1 * np.uint64(c2)
        # Numba widens integers, so each word is cut back to 32 bits.
        c0, c1 = np.uint32(np.uint32(p1 >> _32) ^ c1 ^ k0), np.uint32(p1)
        c2, c3 = np.uint32(np.uint32(p0 >> _32) ^ c3 ^ k1), np.uint32(p0)
        k0, k1 = np.uint32(k0 + _W0), np.uint32(k1 + _W1)
    return c0, c1, c2, c3


@kernel
def philox_lanes(w0, w1, w2, w3, k0, k1):  # type: ignore[no-untyped-def]
    """Calls of :func:`philox` side by side, in place: word w of call b is at ``w_w[b]``.

    The rounds are outside: an inner loop without calls or carried values is what vectorises.
    """
    for _ in range(ROUNDS):
        for b in range(w0.size):
            p0 = _M0 * np.uint64(w0[b])
            p1 = _M1 * np.uint64(w2[b])
            c1, c3 = w1[b], w3[b]
            w0[b] = np.uint32(np.uint32(p1 >> _32) ^ c1 ^ k0)
            w1[b] = np.uint32(p1)
            w2[b] = np.uint32(np.uint32(p0 >> _32) ^ c3 ^ k1)
            w3[b] = np.uint32(p0)
        k0, k1 = np.uint32(k0 + _W0), np.uint32(k1 + _W1)
