"""The end of a tile: writing its accumulators to C, cut at the edges, stored or added."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from bptool.ops.matmul.ir_helpers import (
    first_lanes,
    integer,
    masked_load,
    masked_store,
    splat,
)


def emit_store(
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
    mask = first_lanes(builder, lanes, width)
    is_cut = builder.icmp_signed("<", lanes, integer(width))
    adds = builder.trunc(accumulate, ir.IntType(1))
    all_adds = splat(builder, adds, mask.type, width)
    zero = ir.Constant(vector, [ir.Constant(element, 0.0)] * width)
    c_pointer = builder.inttoptr(c, element.as_pointer())

    def store_whole(place: Any, value: Any) -> None:
        with builder.if_else(adds) as (then, otherwise):
            with then:
                old = builder.load(place)
                old.align = n_bytes
                builder.store(builder.fadd(old, value), place).align = n_bytes
            with otherwise:
                builder.store(value, place).align = n_bytes

    for i in range(len(finals) // n_vectors):
        with builder.if_then(builder.icmp_signed("<", integer(i), rows)):
            row = builder.gep(c_pointer, [builder.mul(integer(i), c_stride)])
            for v in range(n_vectors):
                place = builder.gep(row, [integer(v * width)])
                place = builder.bitcast(place, vector.as_pointer())
                value = finals[i * n_vectors + v]
                if v < n_vectors - 1:
                    store_whole(place, value)
                    continue
                with builder.if_else(is_cut) as (then, otherwise):
                    with then:
                        old = masked_load(builder, place, mask, vector, n_bytes)
                        kept = builder.select(all_adds, old, zero)
                        masked_store(builder, builder.fadd(kept, value), place, mask, n_bytes)
                    with otherwise:
                        store_whole(place, value)
