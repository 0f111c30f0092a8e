"""The loop over k of a tile: broadcast, load, multiply-add; see ``tile.py``."""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir

from bptool.ops.matmul.ir_helpers import declare, integer, prefetch, splat
from bptool.ops.matmul.target import UNIT, VECTOR_BYTES, VECTORS, lanes_of

CACHE_LINE_BYTES = 64


class Shape(NamedTuple):
    """Which tile is emitted."""

    element: Any
    n_rows: int
    n_vectors: int
    k_stride: int | None

    @property
    def n_bytes(self) -> int:
        return 4 if isinstance(self.element, ir.FloatType) else 8

    @property
    def vector(self) -> Any:
        return ir.VectorType(self.element, lanes_of(self.n_bytes))


class State(NamedTuple):
    """What the loop over k carries."""

    a_offset: Any
    b_pointer: Any
    sums: list[Any]


def emit_loop(
    builder: Any,
    shape: Shape,
    start: State,
    b_stop: Any,
    unroll: int,
    row_pointers: list[Any],
    k_stride: Any,
) -> State:
    """Steps of k, ``unroll`` a turn, until B's pointer is ``b_stop``; none if it is already."""
    before = builder.block
    loop = builder.append_basic_block("k")
    after = builder.append_basic_block("k.end")
    more = builder.icmp_unsigned("!=", start.b_pointer, b_stop)
    builder.cbranch(more, loop, after)

    builder.position_at_end(loop)
    values = [start.a_offset, start.b_pointer, *start.sums]
    phis = [builder.phi(value.type) for value in values]
    state = State(phis[0], phis[1], phis[2:])
    for _ in range(unroll):
        state = _emit_step(builder, shape, state, row_pointers, k_stride)
    following = [state.a_offset, state.b_pointer, *state.sums]
    builder.cbranch(builder.icmp_unsigned("!=", state.b_pointer, b_stop), loop, after)
    last = builder.block

    builder.position_at_end(after)
    ends = [builder.phi(value.type) for value in values]
    for phi, end, value, new in zip(phis, ends, values, following, strict=True):
        phi.add_incoming(value, before)
        phi.add_incoming(new, last)
        end.add_incoming(value, before)
        end.add_incoming(new, last)
    return State(ends[0], ends[1], ends[2:])


def _emit_step(
    builder: Any, shape: Shape, state: State, row_pointers: list[Any], k_stride: Any
) -> State:
    """One step of k."""
    vector, n_bytes, n_vectors = shape.vector, shape.n_bytes, shape.n_vectors
    width = vector.count
    fma = declare(builder, f"llvm.fma.v{width}f{8 * n_bytes}", vector, [vector] * 3)
    if UNIT.ahead_bytes:
        for ahead in range(0, n_vectors * VECTOR_BYTES, CACHE_LINE_BYTES):
            offset = integer((UNIT.ahead_bytes + ahead) // n_bytes)
            prefetch(builder, builder.gep(state.b_pointer, [offset]))
    b_vectors = []
    for v in range(n_vectors):
        place = builder.gep(state.b_pointer, [integer(v * width)])
        load = builder.load(builder.bitcast(place, vector.as_pointer()))
        load.align = VECTOR_BYTES
        b_vectors.append(load)
    sums = []
    for i, row in enumerate(row_pointers):
        scalar = builder.load(builder.gep(row, [state.a_offset]))
        scalar.align = n_bytes
        spread = splat(builder, scalar, vector, width)
        for v in range(n_vectors):
            sums.append(builder.call(fma, [spread, b_vectors[v], state.sums[i * n_vectors + v]]))
    next_b = builder.gep(state.b_pointer, [integer(VECTORS * width)])
    return State(builder.add(state.a_offset, k_stride), next_b, sums)
