"""Natural logarithm that vectorises, as the functions of :mod:`bptool.ops.vector_math` do.

    log(x) = n ln 2 + 2 artanh s,   x = 2^n m,   s = (m - 1) / (m + 1),   m in [sqrt(1/2), sqrt(2))

The series of artanh ends at s^9; its error is below 1e-9 there. For positive numbers that are not
subnormal; called from kernels only. In float64 it is the library's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from bptool.ops.vector_math import LN2_HIGH, LN2_LOW, OPTIONS, float_from_bits

_ARTANH = tuple(np.float32(2.0 / (2 * k + 1)) for k in range(5))
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
    c0, c1, c2, c3, c4 = _ARTANH
    one, root_half = np.float32(1.0), _ROOT_HALF

    def log32(x: Any) -> Any:
        bits = _bits_of_float(x)
        n = np.int32(np.int32(bits - root_half) >> np.int32(23))
        m = float_from_bits(np.int32(bits - np.int32(n << np.int32(23))))
        s = (m - one) / (m + one)
        u = s * s
        near = s * (c0 + u * (c1 + u * (c2 + u * (c3 + u * c4))))
        return np.float32(n) * LN2_HIGH + (near + np.float32(n) * LN2_LOW)

    return log32
