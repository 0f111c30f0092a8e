"""The inner loop of the matrix product: one tile of C held in vector registers.

A tile is R rows by V vectors of W lanes. For each k the tile loads V vectors of B, broadcasts R
elements of A, and does R V fused multiply-adds:

    C[i, :] += A[i, k] B[k, :]      i = 0 .. R-1,  all R V accumulators in registers

R and V follow from the number of vector registers: R V accumulators, V vectors of B and one
broadcast must fit. A is read through R row pointers (rows past the edge repeat the last one and are
not stored), in place or packed: its element (i, k) is at i * row_stride + k * k_stride. B comes
packed in panels of V W columns (see ``packing.py``), 64-byte aligned. The last vector of a row may
be cut to ``lanes`` lanes.

Two things are fetched ahead, worth 5 to 10 % each where matrices outgrow the caches: B, since a
panel streams from the second cache, and the tile of C, which the loop over k leaves time to bring.

The code is LLVM IR through Numba's ``intrinsic``: scalar loops would leave the choice of registers
to heuristics. A tile is a function of its own, not inlined, so that registers are shared out for
its loop alone. Sources: Goto, van de Geijn 2008, "Anatomy of high-performance matrix
multiplication"; Van Zee, van de Geijn 2015, "BLIS".
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bptool.ops.matmul.ir_helpers import declare, integer, local_function, prefetch, splat
from bptool.ops.matmul.target import ROWS, VECTOR_BYTES, VECTORS, lanes_of
from bptool.ops.matmul.tile_store import emit_store

CACHE_LINE_BYTES = 64
AHEAD_BYTES = 3072
"""How far ahead of its use a line of B is fetched."""


def _make_tile(n_rows: int, n_vectors: int) -> Any:
    """The tile of this size, as an intrinsic over addresses and element counts."""

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

            def emit(inner: Any, passed: Any) -> None:
                _emit_tile(inner, element, width, n_rows, n_vectors, *passed)

            name = f"bptool.tile.{n_rows}.{n_vectors}.{element}"
            builder.call(local_function(builder, name, len(args) - 1, emit), args[:-1])
            return context.get_dummy_value()

        return types.void(*arguments), codegen

    return tile


def _emit_tile(
    builder: Any,
    element: Any,
    width: int,
    n_rows: int,
    n_vectors: int,
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
) -> None:
    """The body of a tile's function; ``n_k`` is at least 1."""
    vector = ir.VectorType(element, width)
    n_bytes = VECTOR_BYTES // width
    fma = declare(builder, f"llvm.fma.v{width}f{8 * n_bytes}", vector, [vector] * 3)
    zero = ir.Constant(vector, [ir.Constant(element, 0.0)] * width)

    c_pointer = builder.inttoptr(c, element.as_pointer())
    a_pointer = builder.inttoptr(a, element.as_pointer())
    b_start = builder.inttoptr(b, element.as_pointer())
    b_stop = builder.gep(b_start, [builder.mul(n_k, integer(VECTORS * width))])
    last_row = builder.sub(rows, integer(1))
    row_pointers = []
    for i in range(n_rows):
        inside = builder.icmp_signed("<", integer(i), rows)
        row = builder.select(inside, integer(i), last_row)
        row_pointers.append(builder.gep(a_pointer, [builder.mul(row, row_stride)]))
        c_row = builder.mul(row, c_stride)
        for first in range(0, n_vectors * width, CACHE_LINE_BYTES // n_bytes):
            place = builder.gep(c_pointer, [builder.add(c_row, integer(first))])
            prefetch(builder, place, to_write=True)
    before = builder.block
    loop = builder.append_basic_block("k")
    after = builder.append_basic_block("store")
    builder.branch(loop)

    builder.position_at_end(loop)
    a_offset = builder.phi(ir.IntType(64))
    b_pointer = builder.phi(b_start.type)
    sums = [builder.phi(vector) for _ in range(n_rows * n_vectors)]
    for ahead in range(0, n_vectors * VECTOR_BYTES, CACHE_LINE_BYTES):
        prefetch(builder, builder.gep(b_pointer, [integer((AHEAD_BYTES + ahead) // n_bytes)]))
    b_vectors = []
    for v in range(n_vectors):
        place = builder.gep(b_pointer, [integer(v * width)])
        load = builder.load(builder.bitcast(place, vector.as_pointer()))
        load.align = VECTOR_BYTES
        b_vectors.append(load)
    updated = []
    for i in range(n_rows):
        scalar = builder.load(builder.gep(row_pointers[i], [a_offset]))
        scalar.align = n_bytes
        spread = splat(builder, scalar, vector, width)
        for v in range(n_vectors):
            updated.append(builder.call(fma, [spread, b_vectors[v], sums[i * n_vectors + v]]))
    next_a = builder.add(a_offset, k_stride)
    next_b = builder.gep(b_pointer, [integer(VECTORS * width)])
    builder.cbranch(builder.icmp_unsigned("!=", next_b, b_stop), loop, after)
    for phi, start, following in (
        (a_offset, integer(0), next_a),
        (b_pointer, b_start, next_b),
        *((phi, zero, new) for phi, new in zip(sums, updated, strict=True)),
    ):
        phi.add_incoming(start, before)
        phi.add_incoming(following, loop)

    builder.position_at_end(after)
    emit_store(
        builder, vector, element, n_bytes, n_vectors, updated, c, c_stride, rows, lanes, accumulate
    )


SHORT_ROWS = 2
tiles = {n: _make_tile(ROWS, n) for n in range(1, VECTORS + 1)}
"""Tiles by number of vectors; narrower ones serve the last columns."""
short_tiles = {n: _make_tile(SHORT_ROWS, n) for n in range(1, VECTORS + 1)}
"""The same for up to SHORT_ROWS rows, where rows end; each element's bits are equal, since it is
summed in the same order."""
