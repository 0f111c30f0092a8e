"""The end of a tile: writing its accumulators to C, cut at the edges, stored or added."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from bptool.ops.matmul.ir_helpers import declare, splat
from bptool.ops.matmul.target import ROWS

_INT = ir.IntType(64)


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
    pointer_type = vector.as_pointer()
    mask_type = ir.VectorType(ir.IntType(1), width)
    integers = ir.VectorType(ir.IntType(64), width)
    iota = ir.Constant(integers, [ir.Constant(_INT, i) for i in range(width)])
    limit = splat(builder, lanes, integers, width)
    mask = builder.icmp_signed("<", iota, limit)
    is_cut = builder.icmp_signed("<", lanes, ir.Constant(_INT, width))
    adds = builder.trunc(accumulate, ir.IntType(1))
    alignment = ir.Constant(ir.IntType(32), n_bytes)
    zero = ir.Constant(vector, [ir.Constant(element, 0.0)] * width)
    name = f"v{width}f{8 * n_bytes}.p0"
    masked_load = declare(
        builder,
        f"llvm.masked.load.{name}",
        vector,
        [pointer_type, ir.IntType(32), mask_type, vector],
    )
    masked_store = declare(
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
                        kept = builder.select(splat(builder, adds, mask_type, width), old, zero)
                        total = builder.fadd(kept, value)
                        builder.call(masked_store, [total, place, alignment, mask])
                    with otherwise:
                        store_whole()
