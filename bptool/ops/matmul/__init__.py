"""Matrix product: out = op(A) op(B), or out += op(A) op(B); op is the identity or a transpose.

Every product of a model goes through :func:`matmul`, called from compiled code. Two engines stand
behind it, each a C function called by its address, so that it is compiled once and not again into
every kernel that multiplies: our own (``blocked.py`` around ``tile.py``, ``dot_rows.py`` for a few
rows) and a BLAS (``blas.py``, of those in ``libraries.py``).

Shapes: op(A) (M, K), op(B) (K, N), out (M, N). Rows may be strided; columns are contiguous.

Causal attention multiplies with triangles. :func:`matmul_triangle` is told of one, and leaves out
what it can: LOWER_OUT, out[i, j] is wanted for j <= i + diagonal only, and elsewhere may be
anything; LOWER_A, op(A)[i, k] is zero for k > i + diagonal; UPPER_A, for k < i - diagonal. Zeros
are there all the same, so an engine may multiply all, as the BLAS does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bptool.ops.jit import kernel
from bptool.ops.matmul.blas import blas_address
from bptool.ops.matmul.blocked import FULL, SCRATCH, tiled_address
from bptool.ops.memory import aligned_zeros


class MatmulEngine(NamedTuple):
    """What multiplies, as kernels take it. Not to be shared between threads."""

    address: int
    """Of the C function."""
    scratch: npt.NDArray[Any]
    """Room for packed panels; unused by a BLAS."""


def tiled_engine(dtype: npt.DTypeLike) -> MatmulEngine:
    """Our own product for float32 or float64."""
    return MatmulEngine(tiled_address(np.dtype(dtype).name), aligned_zeros((SCRATCH,), dtype))


def blas_engine(dtype: npt.DTypeLike, library: str = "blas") -> MatmulEngine:
    """A BLAS for float32 or float64: scipy's, or another of ``LIBRARIES`` that is there."""
    return MatmulEngine(blas_address(np.dtype(dtype).name, library), aligned_zeros((1,), dtype))


@intrinsic
def _call(
    typing_context: Any,
    address: Any,
    c: Any,
    ldc: Any,
    a: Any,
    lda: Any,
    trans_a: Any,
    b: Any,
    ldb: Any,
    trans_b: Any,
    m: Any,
    n: Any,
    k: Any,
    accumulate: Any,
    triangle: Any,
    diagonal: Any,
    scratch: Any,
) -> Any:
    """Call the engine's C function; arrays pass their data, everything else is an integer."""
    sizes = (m, n, k, accumulate, triangle, diagonal)
    arguments = (c, ldc, a, lda, trans_a, b, ldb, trans_b, *sizes, scratch)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        integer = ir.IntType(64)
        passed = []
        for value, kind in zip(args[1:], arguments, strict=True):
            if isinstance(kind, types.Array):
                passed.append(context.make_array(kind)(context, builder, value).data)
            else:
                passed.append(context.cast(builder, value, kind, types.intp))
        function = ir.FunctionType(ir.VoidType(), [value.type for value in passed])
        assert all(v.type == integer or isinstance(v.type, ir.PointerType) for v in passed)
        builder.call(builder.inttoptr(args[0], function.as_pointer()), passed)
        return context.get_dummy_value()

    return types.void(address, *arguments), codegen


@kernel
def matmul(engine, out, a, transpose_a, b, transpose_b, accumulate):  # type: ignore[no-untyped-def]
    """out = op(a) op(b), added to what is in ``out`` if ``accumulate``."""
    matmul_triangle(engine, out, a, transpose_a, b, transpose_b, accumulate, FULL, 0)


@kernel
def matmul_triangle(  # type: ignore[no-untyped-def]
    engine, out, a, transpose_a, b, transpose_b, accumulate, triangle, diagonal
):
    """The same, where all but a ``triangle`` is zero or not wanted; diagonal >= 0."""
    m, n = out.shape
    k = a.shape[0] if transpose_a else a.shape[1]
    size = out.itemsize
    _call(
        *(engine.address, out, out.strides[0] // size),
        *(a, a.strides[0] // size, transpose_a),
        *(b, b.strides[0] // size, transpose_b),
        *(m, n, k, accumulate, triangle, diagonal, engine.scratch),
    )
