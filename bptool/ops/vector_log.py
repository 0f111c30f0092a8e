"""Natural logarithm that vectorises, as the functions of :mod:`bptool.ops.vector_math` do.

    log(x) = n ln 2 + log(1 + f),   x = 2^n (1 + f),   1 + f in [sqrt(1/2), sqrt(2))
    log(1 + f) = 2 artanh s = f - (h - s (h + R)),   s = f / (2 + f),   h = f^2 / 2

R = 2 s^2 / 3 + 2 s^4 / 5 + ... ends at s^8, which leaves an error below 1e-9. Written with f, which
is exact, it is good to a unit in the last place. For positive numbers that are not subnormal;
called from kernels only. In float64 it is the library's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from bptool.ops.vector_math import LN2_HIGH, LN2_LOW, OPTIONS, float_from_bits

_ARTANH = tuple(np.float32(2.0 / (2 * k + 3)) for k in range(4))
_ROOT_HALF = np.int32(np.float32(math.sqrt(0.5)).view(np.int32))


@intrinsic
def _bits_of_float(typing_context: Any, value: Any) -> Any:
    """Read a float32 as the int32 of the same bits."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), codegen


def log(x: Any) -> Any:
    """Natural logarithm of a positive number."""
    raise NotImplementedError("called from compiled kernels only")


@overload(log, jit_options=OPTIONS, inline="never")
def _log(x: Any) -> Any:
    if x != types.float32:

        def log64(x: Any) -> Any:
            return math.log(x)

        return log64
    c0, c1, c2, c3 = _ARTANH
    half, one, two, root_half = np.float32(0.5), np.float32(1.0), np.float32(2.0), _ROOT_HALF

    def log32(x: Any) -> Any:
        bits = _bits_of_float(x)
        n = np.int32(np.int32(bits - root_half) >> np.int32(23))
        f = float_from_bits(np.int32(bits - np.int32(n << np.int32(23)))) - one
        s, h = f / (two + f), half * f * f
        u = s * s
        r = u * (c0 + u * (c1 + u * (c2 + u * c3)))
        near = h - (s * (h + r) + np.float32(n) * LN2_LOW)
        return np.float32(n) * LN2_HIGH - (near - f)

    return log32
