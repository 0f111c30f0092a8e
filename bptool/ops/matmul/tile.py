"""The inner loop of the matrix product: one tile of C held in vector registers.

A tile is R rows by V vectors of W lanes. For each k the tile loads V vectors of B, broadcasts R
elements of A, and does R V fused multiply-adds:

    C[i, :] += A[i, k] B[k, :]      i = 0 .. R-1,  all R V accumulators in registers

R and V follow from the number of vector registers: R V accumulators, V vectors of B and one
broadcast must fit. A is read in place through R row pointers (rows past the edge repeat the last
one and are not stored), so it may be transposed: its element (i, k) is at i * row_stride +
k * k_stride. B comes packed in panels of V W columns (see ``packing.py``), 64-byte aligned. The
last vector of a row may be cut to ``lanes`` lanes.

The code is LLVM IR through Numba's ``intrinsic``: scalar loops would leave the choice of registers
to heuristics. Sources: Goto, van de Geijn 2008, "Anatomy of high-performance matrix
multiplication"; Van Zee, van de Geijn 2015, "BLIS".
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bptool.ops.matmul.ir_helpers import declare, splat
from bptool.ops.matmul.target import ROWS, VECTOR_BYTES, VECTORS, lanes_of
from bptool.ops.matmul.tile_store import emit_store

_INT = ir.IntType(64)


def _make_tile(n_vectors: int) -> Any:
    """The tile of ``n_vectors`` vectors, as an intrinsic over addresses and element counts."""

    @intrinsic
    def tile(
        typing_context: Any,
        c: Any,
        c_stride: Any,
        a: Any,
        row_stride: Any,
        k_stride: Any,
        b: Any,
        n_k: Any,
        rows: Any,
        lanes: Any,
        accumulate: Any,
        real: Any,
    ) -> Any:
        arguments = (c, c_stride, a, row_stride, k_stride, b, n_k, rows, lanes, accumulate, real)
        width = lanes_of(real.bitwidth // 8)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            element = context.get_value_type(real)
            _emit_tile(builder, element, width, n_vectors, args)
            return context.get_dummy_value()

        return types.void(*arguments), codegen

    return tile


def _emit_tile(builder: Any, element: Any, width: int, n_vectors: int, args: Any) -> None:
    c, c_stride, a, row_stride, k_stride, b, n_k, rows, lanes, accumulate, _ = args
    vector = ir.VectorType(element, width)
    n_bytes = 4 if isinstance(element, ir.FloatType) else 8
    fma = declare(builder, f"llvm.fma.v{width}f{8 * n_bytes}", vector, [vector] * 3)
    zero_index = ir.Constant(_INT, 0)

    def at(base: Any, offset: Any) -> Any:
        return builder.gep(base, [offset])

    a_pointer = builder.inttoptr(a, element.as_pointer())
    last_row = builder.sub(rows, ir.Constant(_INT, 1))
    row_pointers = []
    for i in range(ROWS):
        index = ir.Constant(_INT, i)
        clamped = builder.select(builder.icmp_signed("<", index, rows), index, last_row)
        row_pointers.append(at(a_pointer, builder.mul(clamped, row_stride)))
    b_start = builder.inttoptr(b, element.as_pointer())

    before = builder.block
    loop = builder.append_basic_block("tile.k")
    after = builder.append_basic_block("tile.store")
    zero = ir.Constant(vector, [ir.Constant(element, 0.0)] * width)
    builder.cbranch(builder.icmp_signed(">", n_k, zero_index), loop, after)

    builder.position_at_end(loop)
    k = builder.phi(_INT)
    a_offset = builder.phi(_INT)
    b_offset = builder.phi(_INT)
    sums = [builder.phi(vector) for _ in range(ROWS * n_vectors)]
    b_vectors = []
    for v in range(n_vectors):
        place = at(b_start, builder.add(b_offset, ir.Constant(_INT, v * width)))
        load = builder.load(builder.bitcast(place, vector.as_pointer()))
        load.align = VECTOR_BYTES
        b_vectors.append(load)
    updated = []
    for i in range(ROWS):
        scalar = builder.load(at(row_pointers[i], a_offset))
        scalar.align = n_bytes
        spread = splat(builder, scalar, vector, width)
        for v in range(n_vectors):
            updated.append(builder.call(fma, [spread, b_vectors[v], sums[i * n_vectors + v]]))
    next_k = builder.add(k, ir.Constant(_INT, 1))
    next_a = builder.add(a_offset, k_stride)
    next_b = builder.add(b_offset, ir.Constant(_INT, VECTORS * width))
    builder.cbranch(builder.icmp_signed("<", next_k, n_k), loop, after)
    for phi, start, following in (
        (k, zero_index, next_k),
        (a_offset, zero_index, next_a),
        (b_offset, zero_index, next_b),
        *((phi, zero, new) for phi, new in zip(sums, updated, strict=True)),
    ):
        phi.add_incoming(start, before)
        phi.add_incoming(following, loop)

    builder.position_at_end(after)
    finals = []
    for new in updated:
        phi = builder.phi(vector)
        phi.add_incoming(zero, before)
        phi.add_incoming(new, loop)
        finals.append(phi)
    emit_store(
        builder, vector, element, n_bytes, n_vectors, finals, c, c_stride, rows, lanes, accumulate
    )


tiles = {n: _make_tile(n) for n in range(1, VECTORS + 1)}
"""Tiles by number of vectors; narrower ones serve the last columns."""
