"""Dropout: y = x m / (1 - p), where m is 1 with probability 1 - p and 0 with probability p.

Shapes: x (N, C), in place; row i of x is row ``row0 + i`` of the whole batch.
The mask is a function of (seed, step, site, row, column) through Philox, so the backward makes it
anew and it is the same however the batch is cut. Eight columns share a call (16 bits each), so p
is rounded to a multiple of 2^-16, and the scale is that of the rounded p.
Backward: dx = dy m / (1 - p), the same map; ``dropout`` serves as both.
Source: Srivastava et al. 2014, JMLR 15.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bptool.ops.jit import kernel
from bptool.ops.philox import philox


class MaskKey(NamedTuple):
    """What fixes every mask of a step: the run's seed, the step, and the shard's first sequence."""

    seed: int
    step: int
    sequence0: int


_LOW16 = np.uint32(0xFFFF)
_16 = np.uint32(16)


@kernel
def dropout_row(row, width, p, key, site, row_index):  # type: ignore[no-untyped-def]
    """Drop from the first ``width`` elements of one row of the batch."""
    real = row.dtype.type
    threshold = np.uint32(round(p * 65536.0))
    scale = real(65536.0 / (65536.0 - threshold))
    zero = real(0.0)
    k0, k1 = np.uint32(key.seed), np.uint32(key.seed >> 32)
    r0, r1 = np.uint32(row_index), np.uint32(row_index >> 32)
    step = np.uint32(key.step)
    site_word = np.uint32(site) << _16  # the low half counts the blocks of a row
    n_blocks = width // 8
    for block in range(n_blocks):
        w0, w1, w2, w3 = philox(r0, r1, step, np.uint32(site_word | block), k0, k1)
        j = block * 8
        row[j] = row[j] * scale if (w0 & _LOW16) >= threshold else zero
        row[j + 1] = row[j + 1] * scale if (w0 >> _16) >= threshold else zero
        row[j + 2] = row[j + 2] * scale if (w1 & _LOW16) >= threshold else zero
        row[j + 3] = row[j + 3] * scale if (w1 >> _16) >= threshold else zero
        row[j + 4] = row[j + 4] * scale if (w2 & _LOW16) >= threshold else zero
        row[j + 5] = row[j + 5] * scale if (w2 >> _16) >= threshold else zero
        row[j + 6] = row[j + 6] * scale if (w3 & _LOW16) >= threshold else zero
        row[j + 7] = row[j + 7] * scale if (w3 >> _16) >= threshold else zero
    if n_blocks * 8 < width:
        words = philox(r0, r1, step, np.uint32(site_word | n_blocks), k0, k1)
        for j in range(n_blocks * 8, width):
            lane = j - n_blocks * 8
            word = words[lane // 2]
            half = (word >> _16) if lane % 2 else (word & _LOW16)
            row[j] = row[j] * scale if half >= threshold else zero


@kernel
def dropout(x, p, key, site, row0):  # type: ignore[no-untyped-def]
    """Forward and backward alike, in place; nothing to do for p = 0."""
    if p <= 0.0:
        return
    for i in range(x.shape[0]):
        dropout_row(x[i], x.shape[1], p, key, site, row0 + i)
