"""The inner loop of the matrix product: one tile of C held in vector registers.

A tile is R rows by V vectors of W lanes. For each k the tile loads V vectors of B, broadcasts R
elements of A, and does R V fused multiply-adds:

    C[i, :] += A[i, k] B[k, :]      i = 0 .. R-1,  all R V accumulators in registers

R and V follow from the number of vector registers: R V accumulators, V vectors of B and one
broadcast must fit. A is read through R row pointers (rows past the edge repeat the last one and are
not stored), in place or packed: its element (i, k) is at i * row_stride + k * k_stride. B comes
packed in panels of V W columns (see ``packing.py``), 64-byte aligned. The last vector of a row may
be cut to ``lanes`` lanes.

The loop over k is unrolled, and lines of B are fetched ahead, as far as suits the processor's
vectors (``target.py``); the tile of C is fetched while the loop over k runs. Each element is summed
in the order of k by every tile, so its bits are the same in all.

The code is LLVM IR through Numba's ``intrinsic``: scalar loops would leave the choice of registers
to heuristics. A tile is a function of its own, not inlined, so that registers are shared out for
its loop alone; one for each number of vectors, of rows (R, or SHORT_ROWS where rows end), and kind
of A. Sources: Goto, van de Geijn 2008, "Anatomy of high-performance matrix multiplication"; Van
Zee, van de Geijn 2015, "BLIS".
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bptool.ops.jit import kernel
from bptool.ops.matmul.ir_helpers import integer, local_function, prefetch
from bptool.ops.matmul.target import ROWS, UNIT, VECTORS
from bptool.ops.matmul.tile_loop import CACHE_LINE_BYTES, Shape, State, emit_loop
from bptool.ops.matmul.tile_store import emit_store

SHORT_ROWS = 2
"""Up to so many rows have tiles of their own."""
IN_PLACE, PACKED, TRANSPOSED = range(3)
"""How A lies: as it is (k_stride 1), in groups of ROWS rows (k_stride ROWS, row_stride 1), or
transposed in place (row_stride 1). The first two have their k_stride in the code."""
_K_STRIDES = {IN_PLACE: 1, PACKED: ROWS, TRANSPOSED: None}


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
    n_vectors: Any,
    kind: Any,
    real: Any,
) -> Any:
    """A tile of ``rows`` by ``n_vectors`` over addresses and element counts; ``n_k`` at least 1.

    ``kind`` is one of IN_PLACE, PACKED, TRANSPOSED.
    """
    arguments = (c, c_stride, a, row_stride, k_stride, b, n_k, rows, lanes, accumulate)
    signature = types.void(*arguments, n_vectors, kind, real)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element = context.get_value_type(real)
        passed, (n_vectors, kind) = args[:10], args[10:12]
        is_short = builder.icmp_signed("<=", passed[7], integer(SHORT_ROWS))
        number = builder.add(builder.mul(kind, integer(2)), builder.zext(is_short, kind.type))
        number = builder.add(builder.mul(number, integer(VECTORS)), n_vectors)
        end = builder.append_basic_block("tile.end")
        choice = builder.switch(number, end)
        for own_kind, k_stride in _K_STRIDES.items():
            for short, n_rows in enumerate((ROWS, SHORT_ROWS)):
                for n in range(1, VECTORS + 1):
                    block = builder.append_basic_block("tile")
                    choice.add_case(integer((own_kind * 2 + short) * VECTORS + n), block)
                    builder.position_at_end(block)
                    builder.call(_function(builder, element, n_rows, n, k_stride), passed)
                    builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return signature, codegen


def _function(builder: Any, element: Any, n_rows: int, n_vectors: int, k_stride: int | None) -> Any:
    """The tile of this size and ``k_stride`` (None: as passed) as a function of the module."""

    def emit(inner: Any, passed: Any) -> None:
        shape = Shape(element, n_rows, n_vectors, k_stride)
        _emit_tile(inner, shape, *passed)

    name = f"bptool.tile.{n_rows}.{n_vectors}.{k_stride or 'k'}.{element}"
    return local_function(builder, name, 10, emit)


def _emit_tile(
    builder: Any,
    shape: Shape,
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
    """The body of a tile's function."""
    element, vector, n_bytes = shape.element, shape.vector, shape.n_bytes
    width = vector.count
    zero = ir.Constant(vector, [ir.Constant(element, 0.0)] * width)
    if shape.k_stride is not None:
        k_stride = integer(shape.k_stride)
    c_pointer = builder.inttoptr(c, element.as_pointer())
    a_pointer = builder.inttoptr(a, element.as_pointer())
    b_start = builder.inttoptr(b, element.as_pointer())
    b_stop = builder.gep(b_start, [builder.mul(n_k, integer(VECTORS * width))])
    last_row = builder.sub(rows, integer(1))
    row_pointers = []
    for i in range(shape.n_rows):
        inside = builder.icmp_signed("<", integer(i), rows)
        row = builder.select(inside, integer(i), last_row)
        row_pointers.append(builder.gep(a_pointer, [builder.mul(row, row_stride)]))
        c_row = builder.mul(row, c_stride)
        for first in range(0, shape.n_vectors * width, CACHE_LINE_BYTES // n_bytes):
            place = builder.gep(c_pointer, [builder.add(c_row, integer(first))])
            prefetch(builder, place, to_write=True)
    state = State(integer(0), b_start, [zero] * (shape.n_rows * shape.n_vectors))
    if UNIT.unroll > 1:
        n_whole = builder.and_(n_k, integer(-UNIT.unroll))
        whole = builder.gep(b_start, [builder.mul(n_whole, integer(VECTORS * width))])
        state = emit_loop(builder, shape, state, whole, UNIT.unroll, row_pointers, k_stride)
    state = emit_loop(builder, shape, state, b_stop, 1, row_pointers, k_stride)
    emit_store(
        *(builder, vector, element, n_bytes, shape.n_vectors, state.sums),
        *(c, c_stride, rows, lanes, accumulate),
    )


@kernel
def tile_of(  # type: ignore[no-untyped-def]
    c, c_stride, a, row_stride, k_stride, b, n_k, rows, columns, lanes, adds, kind, real
):
    """One tile at most ``columns`` wide, by the smallest function that covers it."""
    n_vectors = (columns + lanes - 1) // lanes
    last = columns - (n_vectors - 1) * lanes
    tile(c, c_stride, a, row_stride, k_stride, b, n_k, rows, last, adds, n_vectors, kind, real)
