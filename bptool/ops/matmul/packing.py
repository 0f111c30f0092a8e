"""Packing, so that a tile reads one stream from each matrix whatever its layout.

B goes into panels, for each group of P columns its K rows of P contiguous elements:

    packed[panel * (K + GAP) * P + k * P + j] = op(B)[k, panel * P + j]

P is the tile's width. Lanes past the last column hold anything; nothing made from them is stored.
The gap keeps panels from starting a multiple of 4096 bytes apart, where K is a round number: they
are written side by side, and would share one set of the first cache.
Where B is stored transposed, (N, K), blocks of W by W elements are turned in registers. A stored
transposed goes into groups of ROWS rows in the same way; A as it is needs no packing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bptool.ops.jit import kernel
from bptool.ops.matmul.ir_helpers import first_lanes, masked_load
from bptool.ops.matmul.target import ROWS, lanes_of, panel_columns
from bptool.ops.matmul.transpose import transpose_blocks

GAP = 2
"""Rows left free after each panel and each group."""


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


@intrinsic
def _copy_first_lanes(
    typing_context: Any, target: Any, source: Any, n_lanes: Any, real: Any
) -> Any:
    """Copy ``n_lanes`` elements and fill the vector with zeros; nothing else is read."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        n_bytes = real.bitwidth // 8
        vector = ir.VectorType(context.get_value_type(real), lanes_of(n_bytes))
        mask = first_lanes(builder, args[2], vector.count)
        place = builder.inttoptr(args[1], vector.as_pointer())
        value = masked_load(builder, place, mask, vector, n_bytes)
        builder.store(value, builder.inttoptr(args[0], vector.as_pointer())).align = n_bytes
        return context.get_dummy_value()

    return types.void(target, source, n_lanes, real), codegen


@kernel
def pack_rows(packed, b, k0, n_k, j0, n_j):  # type: ignore[no-untyped-def]
    """Pack rows k0.. and columns j0.. of B stored as (K, N)."""
    panel, lanes = panel_width(b), lane_count(b)
    real = b.dtype.type(0.0)
    size = b.itemsize
    stride = b.strides[0]
    source = np.intp(b.ctypes.data) + k0 * stride + j0 * size
    target = np.intp(packed.ctypes.data)
    whole = n_j // panel * panel
    whole_lanes = n_j // lanes * lanes
    for k in range(n_k):
        row = source + k * stride
        for first in range(0, whole, panel):
            place = target + (first * (n_k + GAP) + k * panel) * size
            _copy_panel_row(place, row + first * size, real)
        place = target + (whole * (n_k + GAP) + k * panel - whole) * size
        for j in range(whole, whole_lanes, lanes):
            _copy_lanes(place + j * size, row + j * size, real)
        if whole_lanes < n_j:
            n = n_j - whole_lanes
            _copy_first_lanes(place + whole_lanes * size, row + whole_lanes * size, n, real)


@kernel
def pack_columns(packed, b, k0, n_k, j0, n_j):  # type: ignore[no-untyped-def]
    """Pack rows k0.. and columns j0.. of op(B), B stored transposed as (N, K)."""
    panel, lanes = panel_width(b), lane_count(b)
    real = b.dtype.type(0.0)
    size = b.itemsize
    stride = b.strides[0] // size
    source, target = np.intp(b.ctypes.data), np.intp(packed.ctypes.data)
    k_whole = n_k // lanes * lanes
    for j in range(0, n_j, lanes):
        base = j // panel * panel * (n_k + GAP) + j % panel
        row = (j0 + j) * stride + k0
        n = min(lanes, n_j - j)
        place = target + base * size
        transpose_blocks(place, panel, source + row * size, stride, n, k_whole // lanes, real)
        for k in range(k_whole, n_k):
            for i in range(n):
                packed[base + k * panel + i] = b[j0 + j + i, k0 + k]


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
    for k in range(n_k):
        row = source + k * stride
        for first in range(0, whole, ROWS):
            place = target + (first * (n_k + GAP) + k * ROWS) * size
            _copy_rows(place, row + first * size, real)
        for i in range(whole, n_i):
            packed[whole * (n_k + GAP) + k * ROWS + i - whole] = a[k0 + k, i0 + i]


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
