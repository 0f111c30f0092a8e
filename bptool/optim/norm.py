"""The global gradient norm, and the factor that clips it.

    norm  = sqrt(sum of g_i^2 over every parameter)
    scale = min(1, clip_norm / (norm + 1e-6))

The rule and its 1e-6 are PyTorch's ``clip_grad_norm_``; optax divides without it. Paper: Pascanu,
Mikolov and Bengio, "On the difficulty of training recurrent neural networks", ICML 2013.
"""

from __future__ import annotations

import numpy as np

from bptool.ops.jit import kernel
from bptool.optim.base import Array

BLOCK = 4096


@kernel
def sum_of_squares(x: Array) -> float:
    """Sum of the squares of ``x`` (1-D, contiguous), accumulated in float64.

    Blocks of ``BLOCK`` elements are summed in vector lanes, then added in order, so the rounding
    error grows with the number of blocks only and the same array always gives the same bits.
    NaN and infinity in ``x`` come through. The square of a float32 cannot overflow here.
    """
    total = 0.0
    n = x.shape[0]
    for start in range(0, n, BLOCK):
        block = x[start : min(start + BLOCK, n)]
        partial = 0.0
        for i in range(block.shape[0]):
            value = np.float64(block[i])
            partial += value * value
        total += partial
    return total


def clip_scale(norm: float, clip_norm: float | None) -> float:
    """What to multiply a gradient of global norm ``norm`` by so that it is at most ``clip_norm``.

    ``None`` means no clipping. A norm that is not finite must be dealt with before: its update
    is skipped, there is no factor that mends it.
    """
    if clip_norm is None:
        return 1.0
    return min(1.0, clip_norm / (norm + 1e-6))
