"""The blocked matrix product around the tile: loops over blocks that fit the caches.

    for blocks of N (COLUMNS) and of K (depth):      op(B) packed into panels, for the second cache
        for blocks of M (HEIGHT):                    op(A) packed if transposed and not small
            for each ROWS rows:                      op(A) stays in the first cache
                for each panel:                      a tile; panels are streamed

The first block of K stores (or adds, if asked), the others add. Blocks of K are equal but for
rounding, since a short last one would pay for its pass over C without doing much. Of a triangle,
each ROWS rows have a range of k and of columns; what is left out would add zeros, or is not wanted.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import carray, types

from bptool.ops.jit import c_function, kernel
from bptool.ops.matmul.dot_rows import FEW_ROWS, dot_rows
from bptool.ops.matmul.packing import (
    GAP,
    lane_count,
    pack_block,
    pack_columns,
    pack_rows,
    panel_width,
)
from bptool.ops.matmul.target import ROWS, panel_columns
from bptool.ops.matmul.tile import IN_PLACE, PACKED, TRANSPOSED, tile_of

DEPTH_BYTES = 2048
"""Of a row of op(A) in a block: ROWS such rows are 16 KiB at most."""
HEIGHT = 96
COLUMNS = 768
IN_PLACE_BYTES = 16384
"""Up to here a transposed A stays in the first cache, and packing it would gain nothing."""
SCRATCH = (DEPTH_BYTES // 4 + GAP) * (COLUMNS + HEIGHT)
"""Elements an engine's scratch must have; float64 needs half of them."""
FULL, LOWER_OUT, LOWER_A, UPPER_A = range(4)
"""What of a product is there; see the package's first lines."""
assert HEIGHT % ROWS == 0
assert COLUMNS % panel_columns(4) == 0
assert COLUMNS % panel_columns(8) == 0


@kernel
def blocked_matmul(  # type: ignore[no-untyped-def]
    out, a, transpose_a, b, transpose_b, accumulate, m, n, n_depth, triangle, diagonal, scratch
):
    """out[:m, :n] = op(a) op(b), added if ``accumulate``; ``scratch`` holds SCRATCH elements.

    The arrays are whole rows of their storage: wider than what is multiplied where strided.
    """
    size = out.itemsize
    real = out.dtype.type(0.0)
    lanes, panel = lane_count(out), panel_width(out)
    a_stride, c_stride = a.strides[0] // size, out.strides[0] // size
    packs_a = transpose_a and n_depth * a_stride * size > IN_PLACE_BYTES
    kind, row_stride, k_stride, group = IN_PLACE, a_stride, 1, a_stride
    if packs_a:
        kind, row_stride, k_stride = PACKED, 1, ROWS
    elif transpose_a:
        kind, row_stride, k_stride, group = TRANSPOSED, 1, a_stride, 1
    depth = DEPTH_BYTES // size
    room = (depth + GAP) * COLUMNS
    packed, packed_a = scratch[:room], scratch[room:]
    c_address, b_address = np.intp(out.ctypes.data), np.intp(packed.ctypes.data)
    if n_depth == 0 and not accumulate:
        for i in range(m):
            for j in range(n):
                out[i, j] = real
    n_blocks = max(1, (n_depth + depth - 1) // depth)
    step = max(1, ((n_depth + n_blocks - 1) // n_blocks + lanes - 1) // lanes * lanes)
    for j0 in range(0, n, COLUMNS):
        n_j = min(COLUMNS, n - j0)
        for k0 in range(0, n_depth, step):
            n_k = min(step, n_depth - k0)
            if transpose_b:
                pack_columns(packed, b, k0, n_k, j0, n_j)
            else:
                pack_rows(packed, b, k0, n_k, j0, n_j)
            adds = 1 if accumulate or k0 > 0 else 0
            for i0 in range(0, m, HEIGHT):
                i_end = min(i0 + HEIGHT, m)
                if packs_a:
                    pack_block(packed_a, a, k0, n_k, i0, i_end - i0)
                    a_address, group = np.intp(packed_a.ctypes.data), n_k + GAP
                else:
                    first = (i0 * row_stride + k0 * k_stride) * size
                    a_address = np.intp(a.ctypes.data) + first
                for i in range(i0, i_end, ROWS):
                    stop_j, first_k, stop_k = n_j, 0, n_k
                    if triangle != FULL:
                        last = min(i + ROWS, i_end) - 1
                        if triangle == LOWER_OUT:
                            stop_j = min(n_j, last + diagonal + 1 - j0)
                        elif triangle == LOWER_A:
                            stop_k = min(n_k, last + diagonal + 1 - k0)
                        else:
                            first_k = max(0, i - diagonal - k0)
                        if first_k >= stop_k:  # zeros
                            if adds:
                                continue
                            first_k, stop_k = 0, 1
                    a_place = a_address + ((i - i0) * group + first_k * k_stride) * size
                    for j in range(0, stop_j, panel):
                        tile_of(
                            c_address + (i * c_stride + j0 + j) * size,
                            c_stride,
                            a_place,
                            row_stride,
                            k_stride,
                            b_address + (j * (n_k + GAP) + first_k * panel) * size,
                            stop_k - first_k,
                            min(ROWS, i_end - i),
                            min(panel, n_j - j),
                            lanes,
                            adds,
                            kind,
                            real,
                        )


def _routine(real: Any) -> Any:
    """A C function for one type, its arguments in the order of ``_call`` of the package.

    Cached on disk: the key holds the signature, so the type, and the processor with its features,
    so the width of vectors.
    """
    pointer = types.CPointer(real)
    index = types.intp
    signature = types.void(
        *(pointer, index, pointer, index, index, pointer, index, index),
        *(index, index, index, index, index, index, pointer),
    )

    @c_function(signature)
    def routine(  # type: ignore[no-untyped-def]
        c, ldc, a, lda, trans_a, b, ldb, trans_b, m, n, k, accumulate, triangle, diagonal, scratch
    ):
        first = carray(a, (k if trans_a else m, lda))
        second = carray(b, (n if trans_b else k, ldb))
        target = carray(c, (m, ldc))
        if m <= FEW_ROWS and trans_b and not trans_a:
            dot_rows(target, first, second, accumulate != 0, m, 0, n, k)
        else:
            blocked_matmul(
                *(target, first, trans_a != 0, second, trans_b != 0, accumulate != 0),
                *(m, n, k, triangle, diagonal, carray(scratch, (SCRATCH,))),
            )

    return routine


@functools.cache
def compiled(dtype: str) -> Any:
    """The product for ``float32`` or ``float64`` as Numba's C function."""
    return _routine({"float32": types.float32, "float64": types.float64}[dtype])


def tiled_address(dtype: str) -> int:
    """Address of the compiled product for ``float32`` or ``float64``."""
    return int(compiled(dtype).address)
