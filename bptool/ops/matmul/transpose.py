"""A block of W by W elements turned in registers, in log2(W) rounds of W shuffles."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bptool.ops.matmul.target import lanes_of

_INT = ir.IntType(64)


@intrinsic
def transpose_block(
    typing_context: Any, out: Any, out_stride: Any, source: Any, source_stride: Any, real: Any
) -> Any:
    """out[i, j] = source[j, i] for a block of W by W elements, W lanes a vector; addresses."""
    width = lanes_of(real.bitwidth // 8)
    signature = types.void(out, out_stride, source, source_stride, real)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element = context.get_value_type(real)
        n_bytes = real.bitwidth // 8
        vector = ir.VectorType(element, width)
        target = builder.inttoptr(args[0], element.as_pointer())
        origin = builder.inttoptr(args[2], element.as_pointer())

        def place(base: Any, row: int, stride: Any) -> Any:
            offset = builder.mul(ir.Constant(_INT, row), stride)
            return builder.bitcast(builder.gep(base, [offset]), vector.as_pointer())

        rows = []
        for i in range(width):
            load = builder.load(place(origin, i, args[3]))
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
            store = builder.store(rows[i], place(target, i, args[1]))
            store.align = n_bytes
        return context.get_dummy_value()

    return signature, codegen


def _swap_masks(width: int, distance: int) -> tuple[Any, Any]:
    """Shuffles of rows x, y: the lanes without bit ``distance``, and those with it."""
    number = ir.IntType(32)
    mask_type = ir.VectorType(number, width)
    low = [j if not j & distance else width + j - distance for j in range(width)]
    high = [j + distance if not j & distance else width + j for j in range(width)]
    as_mask = [
        ir.Constant(mask_type, [ir.Constant(number, j) for j in lanes]) for lanes in (low, high)
    ]
    return as_mask[0], as_mask[1]
