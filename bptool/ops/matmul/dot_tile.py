"""The inner loop of ``dot_rows.py``: a tile of dot products, each in a vector register.

    sums[i, j][lane] += A[i, k + lane] B[j, k + lane]        k = 0, W, 2W, ...

Both are loaded as they lie in memory, the last K % W elements through a mask; the lines of B that
the next tile needs are fetched meanwhile. Rows of B past the edge repeat the last one, not stored.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bptool.ops.matmul.dot_store import emit_sums
from bptool.ops.matmul.ir_helpers import (
    declare,
    first_lanes,
    integer,
    local_function,
    masked_load,
    merged,
    prefetch,
)
from bptool.ops.matmul.target import UNIT, VECTOR_BYTES, lanes_of

ROWS = 3
COLUMNS = 8 if UNIT.rows == 8 else 4
"""3 x 8 sums, 3 vectors of A and one of B fit 32 registers; 3 x 4 sums fit 16."""
LINE_BYTES = 64


def _make_tile(n_rows: int) -> Any:
    """The tile of so many rows, as an intrinsic over addresses and element counts."""

    @intrinsic
    def tile(
        typing_context: Any,
        c: Any,
        c_stride: Any,
        a: Any,
        a_stride: Any,
        b: Any,
        b_stride: Any,
        n_k: Any,
        columns: Any,
        ahead: Any,
        adds: Any,
        real: Any,
    ) -> Any:
        arguments = (c, c_stride, a, a_stride, b, b_stride, n_k, columns, ahead, adds, real)
        width = lanes_of(real.bitwidth // 8)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            element = context.get_value_type(real)

            def emit(inner: Any, passed: Any) -> None:
                _emit_tile(inner, element, width, n_rows, *passed)

            name = f"bptool.dot_rows.{n_rows}.{element}"
            builder.call(local_function(builder, name, len(args) - 1, emit), args[:-1])
            return context.get_dummy_value()

        return types.void(*arguments), codegen

    return tile


def _emit_tile(
    builder: Any,
    element: Any,
    width: int,
    n_rows: int,
    c: Any,
    c_stride: Any,
    a: Any,
    a_stride: Any,
    b: Any,
    b_stride: Any,
    n_k: Any,
    columns: Any,
    ahead: Any,
    adds: Any,
) -> None:
    """The body of a tile's function; ``ahead`` is where the next tile's rows of B begin."""
    vector = ir.VectorType(element, width)
    n_bytes = VECTOR_BYTES // width
    # fused where the processor has that instruction, not a library call where it has not
    multiply_add = declare(builder, f"llvm.fmuladd.v{width}f{8 * n_bytes}", vector, [vector] * 3)
    zero = ir.Constant(vector, [ir.Constant(element, 0.0)] * width)
    pointer = element.as_pointer()
    a_start, b_start = builder.inttoptr(a, pointer), builder.inttoptr(b, pointer)
    rows = [builder.gep(a_start, [builder.mul(integer(i), a_stride)]) for i in range(n_rows)]
    last = builder.sub(columns, integer(1))
    others = []
    for j in range(COLUMNS):
        column = builder.select(builder.icmp_signed("<", integer(j), columns), integer(j), last)
        others.append(builder.gep(b_start, [builder.mul(column, b_stride)]))
    rest = builder.and_(n_k, integer(width - 1))
    whole = builder.sub(n_k, rest)

    n_sums = n_rows * COLUMNS

    def step(sums: list[Any], load: Any) -> list[Any]:
        """The sums with one vector more of every row."""
        new = list(sums)
        a_vectors = [load(row) for row in rows]
        for j, other in enumerate(others):
            b_vector = load(other)
            for i in range(n_rows):
                place = i * COLUMNS + j
                new[place] = builder.call(multiply_add, [a_vectors[i], b_vector, sums[place]])
        return new

    entry = builder.block
    loop, check, tail, fold = (
        builder.append_basic_block(name) for name in ("k", "check", "tail", "fold")
    )
    builder.cbranch(builder.icmp_signed(">", whole, integer(0)), loop, check)

    builder.position_at_end(loop)
    k, fetched = builder.phi(ir.IntType(64)), builder.phi(ir.IntType(64))
    sums = [builder.phi(vector) for _ in range(n_sums)]
    place = builder.inttoptr(fetched, ir.IntType(8).as_pointer())
    for line in range(0, COLUMNS * VECTOR_BYTES, LINE_BYTES):
        prefetch(builder, builder.gep(place, [integer(line)]))

    def load_whole(row: Any) -> Any:
        found = builder.load(builder.bitcast(builder.gep(row, [k]), vector.as_pointer()))
        found.align = n_bytes
        return found

    new = step(sums, load_whole)
    next_k = builder.add(k, integer(width))
    next_fetched = builder.add(fetched, integer(COLUMNS * VECTOR_BYTES))
    builder.cbranch(builder.icmp_signed("<", next_k, whole), loop, check)
    for phi, start, following in (
        (k, integer(0), next_k),
        (fetched, ahead, next_fetched),
        *((phi, zero, value) for phi, value in zip(sums, new, strict=True)),
    ):
        phi.add_incoming(start, entry)
        phi.add_incoming(following, loop)

    builder.position_at_end(check)
    so_far = merged(builder, vector, n_sums, (entry, [zero] * n_sums), (loop, new))
    builder.cbranch(builder.icmp_signed(">", rest, integer(0)), tail, fold)

    builder.position_at_end(tail)
    mask = first_lanes(builder, rest, width)

    def load_rest(row: Any) -> Any:
        found = builder.bitcast(builder.gep(row, [whole]), vector.as_pointer())
        return masked_load(builder, found, mask, vector, n_bytes)

    with_rest = step(so_far, load_rest)
    builder.branch(fold)

    builder.position_at_end(fold)
    all_sums = merged(builder, vector, n_sums, (check, so_far), (tail, with_rest))
    for i in range(n_rows):
        out_row = builder.gep(builder.inttoptr(c, pointer), [builder.mul(integer(i), c_stride)])
        row_sums = all_sums[i * COLUMNS : (i + 1) * COLUMNS]
        emit_sums(builder, element, n_bytes, row_sums, out_row, columns, adds)


dot_tiles = {n: _make_tile(n) for n in range(1, ROWS + 1)}
"""Tiles by number of rows."""
