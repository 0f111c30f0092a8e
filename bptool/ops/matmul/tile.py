"""The inner loop of the matrix product: one tile of C held in vector registers.

A tile is R rows by V vectors of W lanes. For each k the tile loads V vectors of B, broadcasts R
elements of A, and does R V fused multiply-adds:

    C[i, :] += A[i, k] B[k, :]      i = 0 .. R-1,  all R V accumulators in registers

R and V follow from the number of vector registers: R V accumulators, V vectors of B and one
broadcast must fit. A is read in place through R row pointers (rows past the edge repeat the last
one and are not stored), so it may be transposed: its element (i, k) is at i * row_stride +
k * k_stride. B comes packed in panels of V W columns (see ``packing.py``), 64-byte aligned. The last vector of
a row may be cut to ``lanes`` lanes.

The code is LLVM IR through Numba's ``intrinsic``: scalar loops would leave the choice of registers
to heuristics. Sources: Goto, van de Geijn 2008, "Anatomy of high-performance matrix
multiplication"; Van Zee, van de Geijn 2015, "BLIS".
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bptool.ops.matmul.target import ROWS, VECTOR_BYTES, VECTORS, lanes_of

_INT = ir.IntType(64)


def _make_tile(n_vectors: int) -> Any:
    """The tile of ``n_vectors`` vectors, as an intrinsic over addresses and element counts."""

    @intrinsic
    def tile(  # noqa: PLR0913
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
    fma = _declare(builder, f"llvm.fma.v{width}f{8 * n_bytes}", vector, [vector] * 3)
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
        spread = _splat(builder, scalar, vector, width)
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
    _emit_store(builder, vector, element, n_bytes, n_vectors, finals, c, c_stride, rows, lanes, accumulate)


def _emit_store(  # noqa: PLR0913
    builder: Any,
    vector: Any,
    element: Any,
    n_bytes: int,
    n_vectors: int,
    finals: list[Any],
    c: Any,
    c_stride: Any,
    rows: Any,
    lanes: Any,
    accumulate: Any,
) -> None:
    """Write the first ``rows`` rows, the last vector cut to ``lanes``; added if ``accumulate``."""
    width = vector.count
    pointer_type = vector.as_pointer()
    mask_type = ir.VectorType(ir.IntType(1), width)
    integers = ir.VectorType(ir.IntType(64), width)
    iota = ir.Constant(integers, [ir.Constant(_INT, i) for i in range(width)])
    limit = _splat(builder, lanes, integers, width)
    mask = builder.icmp_signed("<", iota, limit)
    is_cut = builder.icmp_signed("<", lanes, ir.Constant(_INT, width))
    adds = builder.trunc(accumulate, ir.IntType(1))
    alignment = ir.Constant(ir.IntType(32), n_bytes)
    zero = ir.Constant(vector, [ir.Constant(element, 0.0)] * width)
    name = f"v{width}f{8 * n_bytes}.p0"
    masked_load = _declare(
        builder, f"llvm.masked.load.{name}", vector, [pointer_type, ir.IntType(32), mask_type, vector]
    )
    masked_store = _declare(
        builder,
        f"llvm.masked.store.{name}",
        ir.VoidType(),
        [vector, pointer_type, ir.IntType(32), mask_type],
    )
    c_pointer = builder.inttoptr(c, element.as_pointer())
    for i in range(ROWS):
        inside = builder.icmp_signed("<", ir.Constant(_INT, i), rows)
        with builder.if_then(inside):
            row = builder.gep(c_pointer, [builder.mul(ir.Constant(_INT, i), c_stride)])
            for v in range(n_vectors):
                place = builder.gep(row, [ir.Constant(_INT, v * width)])
                place = builder.bitcast(place, pointer_type)
                value = finals[i * n_vectors + v]

                def store_whole(place: Any = place, value: Any = value) -> None:
                    with builder.if_else(adds) as (then, otherwise):
                        with then:
                            old = builder.load(place)
                            old.align = n_bytes
                            builder.store(builder.fadd(old, value), place).align = n_bytes
                        with otherwise:
                            builder.store(value, place).align = n_bytes

                if v < n_vectors - 1:
                    store_whole()
                    continue
                with builder.if_else(is_cut) as (then, otherwise):
                    with then:
                        old = builder.call(masked_load, [place, alignment, mask, zero])
                        kept = builder.select(_splat(builder, adds, mask_type, width), old, zero)
                        total = builder.fadd(kept, value)
                        builder.call(masked_store, [total, place, alignment, mask])
                    with otherwise:
                        store_whole()


def _declare(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    existing = builder.module.globals.get(name)
    if existing is not None:
        return existing
    return ir.Function(builder.module, ir.FunctionType(result, arguments), name)


def _splat(builder: Any, scalar: Any, vector: Any, width: int) -> Any:
    """A vector with ``scalar`` in every lane."""
    lane = ir.Constant(ir.IntType(32), 0)
    single = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, lane)
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), width), [lane] * width)
    return builder.shuffle_vector(single, ir.Constant(vector, ir.Undefined), zeros)


tiles = {n: _make_tile(n) for n in range(1, VECTORS + 1)}
"""Tiles by number of vectors; narrower ones serve the last columns."""
