"""Blocks of W by W elements turned in registers, in log2(W) rounds of W shuffles each."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bptool.ops.matmul.ir_helpers import integer, local_function, prefetch
from bptool.ops.matmul.target import lanes_of

AHEAD_BYTES = 256
"""How far along its row the source is fetched ahead: W rows are more streams than a processor
follows by itself. To the second cache, since rows a multiple of 4096 bytes apart share one set of
the first."""


@intrinsic
def transpose_blocks(
    typing_context: Any,
    out: Any,
    out_stride: Any,
    source: Any,
    source_stride: Any,
    n_rows: Any,
    n_blocks: Any,
    real: Any,
) -> Any:
    """out[i, j] = source[j, i] for j < W and i < ``n_blocks`` W, W lanes a vector; addresses.

    Where the source has only ``n_rows`` rows, the lanes j >= n_rows repeat the last.
    """
    n_bytes = real.bitwidth // 8
    width = lanes_of(n_bytes)
    signature = types.void(out, out_stride, source, source_stride, n_rows, n_blocks, real)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element = context.get_value_type(real)

        def emit(inner: Any, passed: Any) -> None:
            _emit_blocks(inner, element, width, n_bytes, *passed)

        name = f"bptool.transpose.{element}"
        builder.call(local_function(builder, name, len(args) - 1, emit), args[:-1])
        return context.get_dummy_value()

    return signature, codegen


def _emit_blocks(
    builder: Any,
    element: Any,
    width: int,
    n_bytes: int,
    out: Any,
    out_stride: Any,
    source: Any,
    source_stride: Any,
    n_rows: Any,
    n_blocks: Any,
) -> None:
    vector = ir.VectorType(element, width)
    target = builder.inttoptr(out, element.as_pointer())
    origin = builder.inttoptr(source, element.as_pointer())
    last = builder.sub(n_rows, integer(1))
    starts = []
    for i in range(width):
        inside = builder.icmp_signed("<", integer(i), n_rows)
        row = builder.select(inside, integer(i), last)
        starts.append(builder.gep(origin, [builder.mul(row, source_stride)]))
    length = builder.mul(n_blocks, integer(width))

    before = builder.block
    loop = builder.append_basic_block("block")
    after = builder.append_basic_block("end")
    builder.cbranch(builder.icmp_signed("<", integer(0), length), loop, after)
    builder.position_at_end(loop)
    first = builder.phi(ir.IntType(64))
    rows = []
    for start in starts:
        place = builder.gep(start, [first])
        prefetch(builder, builder.gep(place, [integer(AHEAD_BYTES // n_bytes)]), level=2)
        load = builder.load(builder.bitcast(place, vector.as_pointer()))
        load.align = n_bytes
        rows.append(load)
    distance = width // 2
    while distance:  # swap the off-diagonal blocks of side ``distance``
        low, high = _swap_masks(width, distance)
        new = list(rows)
        for i in range(width):
            if not i & distance:
                x, y = rows[i], rows[i + distance]
                new[i] = builder.shuffle_vector(x, y, low)
                new[i + distance] = builder.shuffle_vector(x, y, high)
        rows = new
        distance //= 2
    for i in range(width):
        row = builder.add(first, integer(i))
        place = builder.gep(target, [builder.mul(row, out_stride)])
        store = builder.store(rows[i], builder.bitcast(place, vector.as_pointer()))
        store.align = n_bytes
    following = builder.add(first, integer(width))
    builder.cbranch(builder.icmp_signed("<", following, length), loop, after)
    first.add_incoming(integer(0), before)
    first.add_incoming(following, loop)
    builder.position_at_end(after)


def _swap_masks(width: int, distance: int) -> tuple[Any, Any]:
    """Shuffles of rows x, y: the lanes without bit ``distance``, and those with it."""
    mask_type = ir.VectorType(ir.IntType(32), width)
    low = [j if not j & distance else width + j - distance for j in range(width)]
    high = [j + distance if not j & distance else width + j for j in range(width)]
    as_mask = [ir.Constant(mask_type, [integer(j, 32) for j in lanes]) for lanes in (low, high)]
    return as_mask[0], as_mask[1]
