"""The logistic function and its logarithm as scalars, without overflow at any argument."""

from __future__ import annotations

import math

from bptool.ops.jit import kernel


@kernel
def sigmoid(x):  # type: ignore[no-untyped-def]
    """1 / (1 + exp(-x))."""
    e = math.exp(-abs(x))
    return 1.0 / (1.0 + e) if x >= 0.0 else e / (1.0 + e)


@kernel
def log_sigmoid(x):  # type: ignore[no-untyped-def]
    """log(1 / (1 + exp(-x)))."""
    return min(x, 0.0) - math.log1p(math.exp(-abs(x)))
