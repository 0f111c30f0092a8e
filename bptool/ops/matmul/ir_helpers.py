"""Small pieces of LLVM IR that the product's inner loops are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir


def integer(value: int, bits: int = 64) -> Any:
    """A constant."""
    return ir.Constant(ir.IntType(bits), value)


def declare(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """A function from elsewhere, such as one of LLVM's intrinsics."""
    existing = builder.module.globals.get(name)
    if existing is not None:
        return existing
    return ir.Function(builder.module, ir.FunctionType(result, arguments), name)


def local_function(
    builder: Any, name: str, n_integers: int, emit: Callable[[Any, Any], None]
) -> Any:
    """A function of this module alone, never inlined, of 64-bit integers; ``emit`` writes it."""
    existing = builder.module.globals.get(name)
    if existing is not None:
        return existing
    kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * n_integers)
    function = ir.Function(builder.module, kind, name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    inner = ir.IRBuilder(function.append_basic_block("entry"))
    emit(inner, function.args)
    inner.ret_void()
    return function


def prefetch(builder: Any, pointer: Any, level: int = 1, to_write: bool = False) -> None:
    """Ask for the line at ``pointer`` in the first or second cache; any address will do."""
    byte = ir.IntType(8).as_pointer()
    function = declare(builder, "llvm.prefetch.p0", ir.VoidType(), [byte, *[ir.IntType(32)] * 3])
    data = 1
    numbers = [integer(n, 32) for n in (int(to_write), 4 - level, data)]
    builder.call(function, [builder.bitcast(pointer, byte), *numbers])


def splat(builder: Any, scalar: Any, vector: Any, width: int) -> Any:
    """A vector with ``scalar`` in every lane."""
    lane = integer(0, 32)
    single = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, lane)
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), width), [lane] * width)
    return builder.shuffle_vector(single, ir.Constant(vector, ir.Undefined), zeros)


def first_lanes(builder: Any, n_lanes: Any, width: int) -> Any:
    """A mask of the first ``n_lanes`` of ``width`` lanes."""
    integers = ir.VectorType(ir.IntType(64), width)
    counted = ir.Constant(integers, [integer(i) for i in range(width)])
    return builder.icmp_signed("<", counted, splat(builder, n_lanes, integers, width))


def masked_load(builder: Any, pointer: Any, mask: Any, vector: Any, n_bytes: int) -> Any:
    """A vector, zero where ``mask`` is off; memory there is not touched."""
    name = f"llvm.masked.load.v{vector.count}f{8 * n_bytes}.p0"
    kinds = [vector.as_pointer(), ir.IntType(32), mask.type, vector]
    zero = ir.Constant(vector, [ir.Constant(vector.element, 0.0)] * vector.count)
    function = declare(builder, name, vector, kinds)
    return builder.call(function, [pointer, integer(n_bytes, 32), mask, zero])


def masked_store(builder: Any, value: Any, pointer: Any, mask: Any, n_bytes: int) -> None:
    """Store the lanes where ``mask`` is on."""
    name = f"llvm.masked.store.v{value.type.count}f{8 * n_bytes}.p0"
    kinds = [value.type, pointer.type, ir.IntType(32), mask.type]
    function = declare(builder, name, ir.VoidType(), kinds)
    builder.call(function, [value, pointer, integer(n_bytes, 32), mask])


def merged(
    builder: Any, vector: Any, n: int, first: tuple[Any, list[Any]], second: tuple[Any, list[Any]]
) -> list[Any]:
    """Values that come from one of two blocks, each given as (block, values)."""
    phis = [builder.phi(vector) for _ in range(n)]
    for block, values in (first, second):
        for phi, value in zip(phis, values, strict=True):
            phi.add_incoming(value, block)
    return phis
