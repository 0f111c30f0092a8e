"""Packing B into panels: for each group of P columns, its K rows of P contiguous elements.

    packed[panel * K * P + k * P + j] = op(B)[k, panel * P + j],  0 past the last column

P is the tile's width. Where B is stored transposed, (N, K), blocks of W by W elements are turned in
registers: W loads, log2(W) rounds of W shuffles, W stores.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bptool.ops.jit import kernel
from bptool.ops.matmul.target import ROWS, lanes_of, panel_columns

_INT = ir.IntType(64)


@intrinsic
def transpose_block(
    typing_context: Any, out: Any, out_stride: Any, source: Any, source_stride: Any, real: Any
) -> Any:
    """out[i, j] = source[j, i] for a block of W by W elements, W lanes a vector; addresses."""
    width = lanes_of(real.bitwidth // 8)
    signature = types.void(out, out_stride, source, source_stride, real)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element = context.get_value_type(real)
        n_bytes = real.bitwidth // 8
        vector = ir.VectorType(element, width)
        target = builder.inttoptr(args[0], element.as_pointer())
        origin = builder.inttoptr(args[2], element.as_pointer())

        def place(base: Any, row: int, stride: Any) -> Any:
            offset = builder.mul(ir.Constant(_INT, row), stride)
            return builder.bitcast(builder.gep(base, [offset]), vector.as_pointer())

        rows = []
        for i in range(width):
            load = builder.load(place(origin, i, args[3]))
            load.align = n_bytes
            rows.append(load)
        distance = width // 2
        while distance:  # swap the off-diagonal blocks of side ``distance``
            low, high = _swap_masks(width, distance)
            new = list(rows)
            for i in range(width):
                if not i & distance:
                    x, y = rows[i], rows[i + distance]
                    new[i] = builder.shuffle_vector(x, y, low)
                    new[i + distance] = builder.shuffle_vector(x, y, high)
            rows = new
            distance //= 2
        for i in range(width):
            store = builder.store(rows[i], place(target, i, args[1]))
            store.align = n_bytes
        return context.get_dummy_value()

    return signature, codegen


def _swap_masks(width: int, distance: int) -> tuple[Any, Any]:
    """Shuffles of rows x, y: the lanes without bit ``distance``, and those with it."""
    number = ir.IntType(32)
    mask_type = ir.VectorType(number, width)
    low = [j if not j & distance else width + j - distance for j in range(width)]
    high = [j + distance if not j & distance else width + j for j in range(width)]
    as_mask = [ir.Constant(mask_type, [ir.Constant(number, j) for j in lanes]) for lanes in (low, high)]
    return as_mask[0], as_mask[1]


def _make_copy(n_elements: Any) -> Any:
    """Copy of ``n_elements(itemsize)`` contiguous elements between addresses."""

    @intrinsic
    def copy(typing_context: Any, target: Any, source: Any, real: Any) -> Any:
        n_bytes = real.bitwidth // 8
        count = n_elements(n_bytes)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            vector = ir.VectorType(context.get_value_type(real), count)
            value = builder.load(builder.inttoptr(args[1], vector.as_pointer()))
            value.align = n_bytes
            builder.store(value, builder.inttoptr(args[0], vector.as_pointer())).align = n_bytes
            return context.get_dummy_value()

        return types.void(target, source, real), codegen

    return copy


_copy_panel_row = _make_copy(panel_columns)
_copy_rows = _make_copy(lambda itemsize: ROWS)
_copy_lanes = _make_copy(lanes_of)


@kernel
def pack_rows(packed, b, k0, n_k, j0, n_j):  # type: ignore[no-untyped-def]
    """Pack rows k0.. and columns j0.. of B stored as (K, N)."""
    panel = panel_width(b)
    real = b.dtype.type(0.0)
    size = b.itemsize
    stride = b.strides[0]
    source = np.intp(b.ctypes.data) + k0 * stride + j0 * size
    target = np.intp(packed.ctypes.data)
    whole = n_j // panel * panel
    for first in range(0, whole, panel):
        for k in range(n_k):
            place = target + (first * n_k + k * panel) * size
            _copy_panel_row(place, source + k * stride + first * size, real)
    lanes = lane_count(b)
    whole_lanes = whole + (n_j - whole) // lanes * lanes
    for k in range(n_k if whole < n_j else 0):
        place = whole * n_k + k * panel
        for j in range(whole, whole_lanes, lanes):
            _copy_lanes(target + (place + j - whole) * size, source + k * stride + j * size, real)
        for j in range(whole_lanes, n_j):
            packed[place + j - whole] = b[k0 + k, j0 + j]
        for j in range(n_j - whole, panel):
            packed[place + j] = real


@kernel
def pack_block(packed, a, k0, n_k, i0, n_i):  # type: ignore[no-untyped-def]
    """Pack columns i0.. and rows k0.. of A stored transposed, (K, M), for groups of ROWS rows.

    In place each k would touch another cache line and page; packed, a tile reads one stream.
    """
    real = a.dtype.type(0.0)
    size = a.itemsize
    stride = a.strides[0]
    source = np.intp(a.ctypes.data) + k0 * stride + i0 * size
    target = np.intp(packed.ctypes.data)
    whole = n_i // ROWS * ROWS
    for first in range(0, whole, ROWS):
        for k in range(n_k):
            place = target + (first * n_k + k * ROWS) * size
            _copy_rows(place, source + k * stride + first * size, real)
    for k in range(n_k if whole < n_i else 0):
        place = whole * n_k + k * ROWS
        for i in range(whole, n_i):
            packed[place + i - whole] = a[k0 + k, i0 + i]


@kernel
def pack_columns(packed, b, k0, n_k, j0, n_j):  # type: ignore[no-untyped-def]
    """Pack rows k0.. and columns j0.. of op(B), B stored transposed as (N, K)."""
    panel = panel_width(b)
    lanes = lane_count(b)
    real = b.dtype.type(0.0)
    size = b.itemsize
    stride = b.strides[0] // size
    source, target = np.intp(b.ctypes.data), np.intp(packed.ctypes.data)
    k_whole = n_k // lanes * lanes
    for first in range(0, n_j, panel):
        n = min(panel, n_j - first)
        n_whole = n // lanes * lanes
        base = (first // panel) * n_k * panel
        for j in range(0, n_whole, lanes):
            row = (j0 + first + j) * stride + k0
            for k in range(0, k_whole, lanes):
                transpose_block(
                    target + (base + k * panel + j) * size,
                    panel,
                    source + (row + k) * size,
                    stride,
                    real,
                )
        for j in range(n):
            for k in range(k_whole if j < n_whole else 0, n_k):
                packed[base + k * panel + j] = b[j0 + first + j, k0 + k]
        for j in range(n, panel):
            for k in range(n_k):
                packed[base + k * panel + j] = real


@intrinsic
def panel_width(typing_context: Any, array: Any) -> Any:
    """Columns of a panel for the array's type, as a constant of the compiled code."""
    return _constant(array, panel_columns)


@intrinsic
def lane_count(typing_context: Any, array: Any) -> Any:
    """Lanes of a vector for the array's type, as a constant of the compiled code."""
    return _constant(array, lanes_of)


def _constant(array: Any, number_of: Any) -> Any:
    value = number_of(array.dtype.bitwidth // 8)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_constant(types.intp, value)

    return types.intp(array), codegen

