"""Small pieces of LLVM IR that the tile is made of."""

from __future__ import annotations

from typing import Any

from llvmlite import ir


def declare(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    existing = builder.module.globals.get(name)
    if existing is not None:
        return existing
    return ir.Function(builder.module, ir.FunctionType(result, arguments), name)


def splat(builder: Any, scalar: Any, vector: Any, width: int) -> Any:
    """A vector with ``scalar`` in every lane."""
    lane = ir.Constant(ir.IntType(32), 0)
    single = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, lane)
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), width), [lane] * width)
    return builder.shuffle_vector(single, ir.Constant(vector, ir.Undefined), zeros)
