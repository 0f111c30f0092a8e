"""Uniform numbers that are pure functions of a key and a counter, in float64.

The generator is Philox 4x64 with 10 rounds (Salmon et al. 2011, "Parallel random numbers: as easy
as 1, 2, 3"), counted as NumPy counts: ``Philox(key, counter).random_raw()`` is the first word of
the block after ``counter``.
"""

from __future__ import annotations

import numpy as np

from bptool.ops.jit import kernel

_M0, _M1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_W0, _W1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)
_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
_UNUSED_BITS = np.uint64(11)
"""A float64 holds 53."""


@kernel
def _high(a, b):  # type: ignore[no-untyped-def]
    """The upper 64 bits of a product."""
    a0, a1, b0, b1 = a & _LOW, a >> _HALF, b & _LOW, b >> _HALF
    low, cross = a0 * b0, a1 * b0
    middle = (low >> _HALF) + (cross & _LOW) + a0 * b1
    return a1 * b1 + (cross >> _HALF) + (middle >> _HALF)


@kernel
def uniforms(out, samples, position, seed, stream):  # type: ignore[no-untyped-def]
    """``out[i]`` in [0, 1), keyed by ``seed`` and ``stream``, counted by ``position`` and
    ``samples[i]``; both (n,), float64 and uint64."""
    for i in range(samples.size):
        c0, c1, c2, c3 = np.uint64(1), np.uint64(position), samples[i], np.uint64(0)
        k0, k1 = np.uint64(seed), np.uint64(stream)
        for _ in range(10):
            h0, l0 = _high(_M0, c0), _M0 * c0
            h1, l1 = _high(_M1, c2), _M1 * c2
            c0, c1, c2, c3 = h1 ^ c1 ^ k0, l1, h0 ^ c3 ^ k1, l0
            k0, k1 = k0 + _W0, k1 + _W1
        out[i] = np.float64(c0 >> _UNUSED_BITS) * 2.0**-53
