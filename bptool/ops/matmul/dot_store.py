"""The end of a tile of dot products: lanes are added and the sums stored."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from bptool.ops.matmul.ir_helpers import first_lanes, integer, masked_load, masked_store


def emit_sums(
    builder: Any,
    element: Any,
    n_bytes: int,
    sums: list[Any],
    out: Any,
    columns: Any,
    adds: Any,
) -> None:
    """Fold a row's sums and store the first ``columns`` of them at ``out``, or add them there."""
    width, n_columns = sums[0].type.count, len(sums)
    group = min(n_columns, width)
    narrow = ir.VectorType(element, group)
    for j in range(0, n_columns, group):
        found = _fold(builder, sums[j : j + group], width)
        mask = first_lanes(builder, builder.sub(columns, integer(j)), group)
        place = builder.bitcast(builder.gep(out, [integer(j)]), narrow.as_pointer())
        held = masked_load(builder, place, mask, narrow, n_bytes)
        adding = builder.icmp_signed("!=", adds, integer(0))
        found = builder.select(adding, builder.fadd(held, found), found)
        masked_store(builder, found, place, mask, n_bytes)


def _fold(builder: Any, vectors: list[Any], width: int) -> Any:
    """The sum of the lanes of each vector, lane l + lane (l + half) at a time, as one vector.

    A vector in between holds some results at once, each in a run of ``lanes`` neighbours.
    """
    lanes = width
    while lanes > 1:
        n_held = vectors[0].type.count // lanes
        sources = 2 if len(vectors) > 1 else 1
        half = lanes // 2
        low = [r * lanes + lane for r in range(sources * n_held) for lane in range(half)]
        pairs = [
            (x, vectors[i + 1] if sources == 2 else x)
            for i, x in list(enumerate(vectors))[::sources]
        ]
        masks = [
            ir.Constant(
                ir.VectorType(ir.IntType(32), len(low)), [integer(p + shift, 32) for p in low]
            )
            for shift in (0, half)
        ]
        vectors = [
            builder.fadd(*(builder.shuffle_vector(x, y, mask) for mask in masks)) for x, y in pairs
        ]
        lanes = half
    return vectors[0]
