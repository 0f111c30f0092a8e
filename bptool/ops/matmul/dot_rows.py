"""Rows times W^T without packing: each element is a dot product of a row with a row of W.

This is what generating text asks for. A few rows use every element of W a few times only, so the
time is that of reading W from memory, and packing it would take longer than the product itself.

A tile (``dot_tile.py``) holds ROWS x COLUMNS dot products, each in one vector register of partial
sums over K. At the end of K the lanes of each register are added by halves (``dot_store.py``).

Every element is summed in this same order whatever tile it stands in. Its bits depend on its row of
A, its row of B and the kind of vectors alone, not on how many rows or columns there are: a text is
the same whatever is generated beside it. They differ from the bits of ``blocked.py``.
"""

from __future__ import annotations

import functools

import numpy as np

from bptool.ops.jit import kernel
from bptool.ops.matmul.dot_tile import COLUMNS, ROWS, dot_tiles

FEW_ROWS = 6
"""Up to here ``matmul`` takes these and not the tile, for which B would have to be packed anew."""

_tile_1, _tile_2, _tile_3 = (dot_tiles[n] for n in range(1, ROWS + 1))


@functools.partial(kernel, fastmath={"contract"})
def dot_rows(out, a, b, accumulate, m, first, stop, n_depth):  # type: ignore[no-untyped-def]
    """out[:m, first:stop] = a[:m] b[first:stop]^T over n_depth columns, added if ``accumulate``.

    Rows may be strided; columns are contiguous. Sums are not to be reordered by the compiler.
    """
    size = out.itemsize
    real = out.dtype.type(0.0)
    adds = 1 if accumulate else 0
    a_stride, b_stride = a.strides[0] // size, b.strides[0] // size
    c_stride = out.strides[0] // size
    a_start, b_start = np.intp(a.ctypes.data), np.intp(b.ctypes.data)
    c_start = np.intp(out.ctypes.data)
    for j in range(first, stop, COLUMNS):
        b_rows = b_start + j * b_stride * size
        others = (b_rows, b_stride, n_depth, min(COLUMNS, stop - j))
        ahead = b_rows + COLUMNS * b_stride * size
        for i in range(0, m, ROWS):
            a_rows = a_start + i * a_stride * size
            c = c_start + (i * c_stride + j) * size
            if m - i >= 3:
                _tile_3(c, c_stride, a_rows, a_stride, *others, ahead, adds, real)
            elif m - i == 2:
                _tile_2(c, c_stride, a_rows, a_stride, *others, ahead, adds, real)
            else:
                _tile_1(c, c_stride, a_rows, a_stride, *others, ahead, adds, real)
