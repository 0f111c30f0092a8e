"""Elementary functions that vectorise: exp, tanh, the normal distribution's CDF and density.

``math.exp`` and its like are library calls, one lane at a time. In float32 the functions here are
polynomials over a reduced argument, good to a few units in the last place, and LLVM turns a loop
over them into vector code. In float64, used to check gradients, they call the library, since
accuracy matters there and speed does not. The polynomials are minimax fits (Lawson's iteration on
Chebyshev nodes) made for this file; ``tests/test_vector_math.py`` holds their errors.

    exp(x)  = 2^n exp(r),  x = n ln 2 + r,  |r| <= ln 2 / 2,  exp(r) = 1 + r + r^2 P(r)
    tanh(x) = x + x^3 P(x^2) for |x| < 0.625, else sign(x) (1 - 2 / (exp(2|x|) + 1))
    cdf(x)  = phi(x) P(-0.28 |x| / (1 + 0.28 |x|)) for x <= 0 (Mills' ratio), else 1 - cdf(-x)

They are called from kernels only. NaN comes out as NaN; exp saturates at 1.2e-38 and 2.4e38.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

OPTIONS = {"fastmath": {"contract"}, "error_model": "numpy"}
"""Sums in an argument reduction must not be reordered: only fusing is allowed."""

LN2_HIGH, LN2_LOW = np.float32(0.693145752), np.float32(1.42860677e-6)
_LOG2_E = np.float32(1.44269504)
_EXP = tuple(np.float32(c) for c in (0.50000001, 0.16666519, 0.04166621, 0.00836888, 0.00139505))
_TANH = tuple(
    np.float32(c) for c in (-0.33333284, 0.13331491, -0.05374349, 0.02065055, -0.00571701)
)
_MILLS = tuple(
    np.float32(c)
    for c in (
        *(1.2533141116, 3.5714226265, 4.4214118027, 2.7663807197),
        *(0.3161129119, -0.6075024191, -0.2582426045),
    )
)
_INVERSE_SQRT_2PI = 0.3989422804014327


@intrinsic
def float_from_bits(typing_context: Any, bits: Any) -> Any:
    """Read an int32 as the float32 of the same bits."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


def exp(x: Any) -> Any:
    """e^x."""
    raise NotImplementedError("called from compiled kernels only")


def tanh(x: Any) -> Any:
    """Hyperbolic tangent."""
    raise NotImplementedError("called from compiled kernels only")


def normal_density(x: Any) -> Any:
    """exp(-x^2 / 2) / sqrt(2 pi)."""
    raise NotImplementedError("called from compiled kernels only")


def normal_cdf(x: Any) -> Any:
    """(1 + erf(x / sqrt 2)) / 2; absolute error below 1.5e-7 in float32."""
    raise NotImplementedError("called from compiled kernels only")


@overload(exp, jit_options=OPTIONS, inline="never")
def _exp(x: Any) -> Any:
    if x != types.float32:

        def exp64(x: Any) -> Any:
            return math.exp(x)

        return exp64
    c0, c1, c2, c3, c4 = _EXP
    lowest, highest = np.float32(-87.33), np.float32(88.37)
    half, one = np.float32(0.5), np.float32(1.0)

    def exp32(x: Any) -> Any:
        x = lowest if x < lowest else x
        x = highest if x > highest else x
        n = np.floor(x * _LOG2_E + half)
        r = (x - n * LN2_HIGH) - n * LN2_LOW
        p = c0 + r * (c1 + r * (c2 + r * (c3 + r * c4)))
        power = float_from_bits(np.int32((np.int32(n) + np.int32(127)) << np.int32(23)))
        return (one + (r + r * r * p)) * power

    return exp32


@overload(tanh, jit_options=OPTIONS, inline="never")
def _tanh(x: Any) -> Any:
    if x != types.float32:

        def tanh64(x: Any) -> Any:
            return math.tanh(x)

        return tanh64
    c0, c1, c2, c3, c4 = _TANH
    one, two, edge = np.float32(1.0), np.float32(2.0), np.float32(0.625)

    def tanh32(x: Any) -> Any:
        size = abs(x)
        u = x * x
        near = x + x * u * (c0 + u * (c1 + u * (c2 + u * (c3 + u * c4))))
        far = one - two / (exp(two * size) + one)
        far = -far if x < np.float32(0.0) else far
        return near if size < edge else far

    return tanh32


@overload(normal_density, jit_options=OPTIONS, inline="never")
def _normal_density(x: Any) -> Any:
    if x != types.float32:

        def density64(x: Any) -> Any:
            return math.exp(-0.5 * x * x) * _INVERSE_SQRT_2PI

        return density64
    minus_half, scale = np.float32(-0.5), np.float32(_INVERSE_SQRT_2PI)

    def density32(x: Any) -> Any:
        return exp(minus_half * x * x) * scale

    return density32


@overload(normal_cdf, jit_options=OPTIONS, inline="never")
def _normal_cdf(x: Any) -> Any:
    if x != types.float32:
        inverse_sqrt_2 = math.sqrt(0.5)

        def cdf64(x: Any) -> Any:
            return 0.5 * math.erfc(-x * inverse_sqrt_2)

        return cdf64
    c0, c1, c2, c3, c4, c5, c6 = _MILLS
    one, ten, zero = np.float32(1.0), np.float32(10.0), np.float32(0.0)
    slope = np.float32(0.28)

    def cdf32(x: Any) -> Any:
        size = slope * abs(x)
        size = size if size < ten else ten  # infinity over infinity would be no number
        s = -size / (one + size)  # in [-1, 0], and small where rounding would show most
        mills = c0 + s * (c1 + s * (c2 + s * (c3 + s * (c4 + s * (c5 + s * c6)))))
        tail = normal_density(x) * mills
        return tail if x < zero else one - tail

    return cdf32
