"""Gaussian noise: x[i] += deviation z(first + i), z standard normal and a function of its index.

Shapes: x (n,), any part of a longer array, whose element ``first`` is x[0].
z is a function of (seed, step, index) through Philox, the same however the array is cut. A group of
64 elements takes 16 calls side by side in vector lanes: element 16 h + b of the group is number h
of call b. Words 0 and 1 of a call give numbers 0 and 1, words 2 and 3 the other two, by the
Box-Muller transform with u in (0, 1), the upper 24 bits of a word:
    r = sqrt(-2 ln u),   z = (r cos a, r sin a),   a uniform on the circle
so no number is beyond 5.9. They are made in float32 whatever the type of x.
Source: Box, Muller 1958, Annals of Mathematical Statistics 29(2). There is nothing to undo: the
noise does not depend on x.
"""

from __future__ import annotations

import math

import numpy as np

from bptool.ops.jit import kernel
from bptool.ops.philox import philox_lanes
from bptool.ops.vector_log import log

LANES = 16
GROUP = 4 * LANES
_SITE = np.uint32(0xC000_0000)
"""Apart from every counter of ``dropout`` and ``stochastic_depth``."""
_8 = np.uint32(8)
_SIN = tuple(np.float32((-1) ** k / math.factorial(2 * k + 1)) for k in range(5))
_COS = tuple(np.float32((-1) ** k / math.factorial(2 * k)) for k in range(5))


@kernel
def _box_muller(z, first, second, w, v):  # type: ignore[no-untyped-def]
    """z[first + b] and z[second + b] from words w[b] and v[b], both (LANES,).

    The angle is one within an eighth of a turn of the axis, and a quarter turn for each of the two
    bits that are left.
    """
    half, minus_two = np.float32(0.5), np.float32(-2.0)
    unit, quarter = np.float32(2.0**-24), np.float32(math.pi / 2 * 2.0**-22)
    for b in range(LANES):
        r = np.sqrt(minus_two * log((np.float32(np.int32(w[b] >> _8)) + half) * unit))
        bits = np.int32(v[b] >> _8)
        a = (np.float32(bits & np.int32(0x3FFFFF)) + half) * quarter - np.float32(math.pi / 4)
        aa = a * a
        s = a * (_SIN[0] + aa * (_SIN[1] + aa * (_SIN[2] + aa * (_SIN[3] + aa * _SIN[4]))))
        c = _COS[0] + aa * (_COS[1] + aa * (_COS[2] + aa * (_COS[3] + aa * _COS[4])))
        turned = (bits & np.int32(0x400000)) != 0
        x, y = (-s if turned else c), (c if turned else s)
        r = -r if (bits & np.int32(0x800000)) != 0 else r
        z[first + b] = r * x
        z[second + b] = r * y


@kernel
def add_normal_noise(x, deviation, seed, step, first):  # type: ignore[no-untyped-def]
    """Allocates 512 bytes of scratch."""
    z, words = np.empty(GROUP, np.float32), np.empty((4, LANES), np.uint32)
    w0, w1, w2, w3 = words[0], words[1], words[2], words[3]
    k0, k1 = np.uint32(seed), np.uint32(seed >> 32)
    deviation = x.dtype.type(deviation)
    stop = first + x.size
    for start in range(first // GROUP * GROUP, stop, GROUP):
        call = start // 4
        for b in range(LANES):
            w0[b] = np.uint32(call + b)
            w1[b] = np.uint32((call + b) >> 32)
        w2[:] = np.uint32(step)
        w3[:] = _SITE
        philox_lanes(w0, w1, w2, w3, k0, k1)
        _box_muller(z, 0, LANES, w0, w1)
        _box_muller(z, 2 * LANES, 3 * LANES, w2, w3)
        for i in range(max(start, first), min(start + GROUP, stop)):
            x[i - first] += deviation * x.dtype.type(z[i - start])
