"""Matrix product: out = op(A) op(B), or out += op(A) op(B); op is the identity or a transpose.

Every product of a model goes through :func:`matmul`, called from compiled code. ``engine`` is the
address of a routine with the Fortran interface of BLAS ``sgemm`` or ``dgemm``, as
:func:`blas_engine` returns it; the routine must run on one thread, since each worker calls its
own. Row-major C = A B is computed as the column-major C^T = B^T A^T, so nothing is copied.

Shapes: op(A) (M, K), op(B) (K, N), out (M, N). Rows may be strided; columns are contiguous.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import get_cython_function_address, intrinsic

from bptool.ops.jit import kernel

_NO_TRANSPOSE, _TRANSPOSE = ord("N"), ord("T")


def blas_engine(dtype: np.dtype[Any] | type[Any]) -> int:
    """Address of scipy's BLAS product for ``dtype`` (float32 or float64)."""
    name = {"float32": "sgemm", "float64": "dgemm"}[np.dtype(dtype).name]
    return int(get_cython_function_address("scipy.linalg.cython_blas", name))


@intrinsic
def _call_gemm(  # noqa: PLR0913
    typing_context: Any,
    address: Any,
    trans_a: Any,
    trans_b: Any,
    m: Any,
    n: Any,
    k: Any,
    a: Any,
    lda: Any,
    b: Any,
    ldb: Any,
    beta: Any,
    c: Any,
    ldc: Any,
) -> Any:
    """Call gemm at ``address`` with alpha = 1; arrays pass their data, numbers a pointer."""
    signature = types.void(
        address, trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc
    )

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        real = context.get_value_type(c.dtype)
        char, integer = ir.IntType(8), ir.IntType(32)

        def data(position: int, array_type: Any) -> Any:
            return context.make_array(array_type)(context, builder, args[position]).data

        def by_reference(value: Any, value_type: Any) -> Any:
            slot = cgutils.alloca_once(builder, value_type)
            builder.store(value, slot)
            return slot

        def number(position: int, integer_type: Any = integer) -> Any:
            return by_reference(builder.trunc(args[position], integer_type), integer_type)

        passed = [
            *(number(1, char), number(2, char), number(3), number(4), number(5)),
            by_reference(ir.Constant(real, 1.0), real),
            *(data(6, a), number(7), data(8, b), number(9)),
            *(by_reference(args[10], real), data(11, c), number(12)),
        ]
        gemm_type = ir.FunctionType(ir.VoidType(), [value.type for value in passed])
        builder.call(builder.inttoptr(args[0], gemm_type.as_pointer()), passed)
        return context.get_dummy_value()

    return signature, codegen


@kernel
def matmul(engine, out, a, transpose_a, b, transpose_b, accumulate):  # type: ignore[no-untyped-def]
    """out = op(a) op(b), added to what is in ``out`` if ``accumulate``."""
    m, n = out.shape
    k = a.shape[0] if transpose_a else a.shape[1]
    if m == 0 or n == 0:
        return
    beta = out.dtype.type(1.0 if accumulate else 0.0)
    size = out.itemsize
    _call_gemm(
        engine,
        _TRANSPOSE if transpose_b else _NO_TRANSPOSE,
        _TRANSPOSE if transpose_a else _NO_TRANSPOSE,
        n,
        m,
        k,
        b,
        max(b.strides[0] // size, 1),
        a,
        max(a.strides[0] // size, 1),
        beta,
        out,
        max(out.strides[0] // size, 1),
    )
