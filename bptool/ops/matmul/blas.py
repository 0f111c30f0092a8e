"""The product by a BLAS, behind the same C function as our own.

Row-major C = A B is computed as the column-major C^T = B^T A^T by the Fortran ``sgemm`` or
``dgemm`` of one of ``libraries.py``, so nothing is copied.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from bptool.ops.jit import c_function
from bptool.ops.matmul.libraries import find_library


@intrinsic
def _call_gemm(
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
    """Call Fortran's gemm at ``address`` with alpha = 1; it takes every number by reference."""
    signature = types.void(address, trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        real = context.get_value_type(beta)
        char, integer = ir.IntType(8), ir.IntType(32)

        def by_reference(value: Any, value_type: Any) -> Any:
            slot = cgutils.alloca_once(builder, value_type)
            builder.store(value, slot)
            return slot

        def number(position: int, integer_type: Any = integer) -> Any:
            return by_reference(builder.trunc(args[position], integer_type), integer_type)

        passed = [
            *(number(1, char), number(2, char), number(3), number(4), number(5)),
            by_reference(ir.Constant(real, 1.0), real),
            *(args[6], number(7), args[8], number(9)),
            *(by_reference(args[10], real), args[11], number(12)),
        ]
        gemm_type = ir.FunctionType(ir.VoidType(), [value.type for value in passed])
        builder.call(builder.inttoptr(args[0], gemm_type.as_pointer()), passed)
        return context.get_dummy_value()

    return signature, codegen


def gemm_routine(real: Any, gemm: int) -> Any:
    """The C function around Fortran's gemm for the type ``real`` at the address ``gemm``.

    It is not cached on disk, since an address is good for one process.
    """
    pointer = types.CPointer(real)
    index = types.intp
    signature = types.void(
        *(pointer, index, pointer, index, index, pointer, index, index),
        *(index, index, index, index, index, index, pointer),
    )
    plain, transposed = ord("N"), ord("T")

    @c_function(signature, cache=False)
    def routine(  # type: ignore[no-untyped-def]
        c, ldc, a, lda, trans_a, b, ldb, trans_b, m, n, k, accumulate, triangle, diagonal, scratch
    ):
        first = transposed if trans_b else plain
        second = transposed if trans_a else plain
        beta = real(1.0) if accumulate else real(0.0)
        # a stride of 0, of an empty matrix, is refused by some
        rows_a, rows_b, rows_c = max(lda, 1), max(ldb, 1), max(ldc, 1)
        _call_gemm(gemm, first, second, n, m, k, b, rows_b, a, rows_a, beta, c, rows_c)

    return routine


@functools.cache
def _compiled(dtype: str, library: str) -> Any:
    found = find_library(library)
    assert found is not None, f"{library} is not installed"
    real = {"float32": types.float32, "float64": types.float64}[dtype]
    return gemm_routine(real, found.gemm[dtype])


def blas_address(dtype: str, library: str) -> int:
    """Address of the C function for ``float32`` or ``float64``; ``library`` must be there."""
    return int(_compiled(dtype, library).address)
