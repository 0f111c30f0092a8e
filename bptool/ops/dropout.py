"""Dropout: y = x m / (1 - p), where m is 1 with probability 1 - p and 0 with probability p.

Shapes: x (N, C), in place; row i of x is row ``row0 + i`` of the whole batch.
The mask is a function of (seed, step, site, row, column) through Philox, so the backward makes it
anew and it is the same however the batch is cut. It takes 16 bits an element, so p is rounded to
a multiple of 2^-16, and the scale is that of the rounded p. A group of 128 columns takes 16 calls
side by side in vector lanes: column 16 h + b of the group has half h of the 128 bits of call b.
Backward: dx = dy m / (1 - p), the same map; ``dropout`` serves as both.
Source: Srivastava et al. 2014, JMLR 15.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bptool.ops.jit import kernel
from bptool.ops.philox import philox_lanes


class MaskKey(NamedTuple):
    """What fixes every mask of a step: the run's seed, the step, and the shard's first sequence."""

    seed: int
    step: int
    sequence0: int


LANES = 16  # calls side by side
HALVES = 8  # of 16 bits in the four words of a call
GROUP = LANES * HALVES
_LOW16 = np.uint32(0xFFFF)
_16 = np.uint32(16)


@kernel
def mask_scratch(x):  # type: ignore[no-untyped-def]
    """Words and factors of one group for rows of x's type, which :func:`dropout_row` takes."""
    return np.empty((4, LANES), np.uint32), np.empty(GROUP, x.dtype)


@kernel
def _write_factors(factors, w0, w1, w2, w3, threshold, scale):  # type: ignore[no-untyped-def]
    """factors[LANES h + b] = scale where half h of call b is at or above the threshold, else 0."""
    zero = factors.dtype.type(0.0)
    for b in range(LANES):
        factors[b] = scale if (w0[b] & _LOW16) >= threshold else zero
        factors[LANES + b] = scale if (w0[b] >> _16) >= threshold else zero
        factors[2 * LANES + b] = scale if (w1[b] & _LOW16) >= threshold else zero
        factors[3 * LANES + b] = scale if (w1[b] >> _16) >= threshold else zero
        factors[4 * LANES + b] = scale if (w2[b] & _LOW16) >= threshold else zero
        factors[5 * LANES + b] = scale if (w2[b] >> _16) >= threshold else zero
        factors[6 * LANES + b] = scale if (w3[b] & _LOW16) >= threshold else zero
        factors[7 * LANES + b] = scale if (w3[b] >> _16) >= threshold else zero


@kernel
def dropout_row(row, width, p, key, site, row_index, scratch):  # type: ignore[no-untyped-def]
    """Drop from the first ``width`` elements of one row of the batch."""
    words, factors = scratch
    threshold = np.uint32(np.int64(p * 65536.0 + 0.5))
    scale = row.dtype.type(65536.0 / max(65536.0 - threshold, 1.0))  # all may be dropped
    w0, w1, w2, w3 = words[0], words[1], words[2], words[3]
    k0, k1 = np.uint32(key.seed), np.uint32(key.seed >> 32)
    site_word = np.uint32(np.uint32(site) << _16)  # the low half counts the calls of a row
    for start in range(0, width, GROUP):
        first_call = np.uint32(site_word | np.uint32(start // HALVES))
        w0[:] = np.uint32(row_index)
        w1[:] = np.uint32(row_index >> 32)
        w2[:] = np.uint32(key.step)
        for b in range(LANES):
            w3[b] = np.uint32(first_call + np.uint32(b))
        philox_lanes(w0, w1, w2, w3, k0, k1)
        _write_factors(factors, w0, w1, w2, w3, threshold, scale)
        for j in range(min(GROUP, width - start)):
            row[start + j] *= factors[j]


@kernel
def dropout(x, p, key, site, row0):  # type: ignore[no-untyped-def]
    """Forward and backward alike, in place; nothing to do for p = 0."""
    if p <= 0.0:
        return
    scratch = mask_scratch(x)
    for i in range(x.shape[0]):
        dropout_row(x[i], x.shape[1], p, key, site, row0 + i, scratch)
