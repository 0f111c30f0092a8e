"""What threads that share an int64 array need: atomic reads and writes, and ways to wait.

The orders are those of C11: a load that acquires sees all that was written before the store that
released the value it reads.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@functools.cache
def yield_address() -> int:
    """Address of the function by which a thread gives up its core; 0 where there is none."""
    try:
        if sys.platform == "win32":
            function: Any = ctypes.WinDLL("kernel32").SwitchToThread
        else:
            function = ctypes.CDLL(None).sched_yield
    except (AttributeError, OSError):
        return 0
    return int(ctypes.cast(function, ctypes.c_void_p).value or 0)


def _field(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [index])


@intrinsic
def load(typing_context: Any, state: Any, index: Any) -> Any:
    """state[index]; what its writer wrote before is seen from here on (acquire)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _field(context, builder, signature.args[0], *args)
        return builder.load_atomic(place, ordering="acquire", align=8)

    return types.int64(state, types.int64), codegen


@intrinsic
def store(typing_context: Any, state: Any, index: Any, value: Any) -> Any:
    """state[index] = value; whoever loads it sees what was written before (release)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _field(context, builder, signature.args[0], args[0], args[1])
        builder.store_atomic(args[2], place, ordering="release", align=8)
        return context.get_dummy_value()

    return types.void(state, types.int64, types.int64), codegen


@intrinsic
def add(typing_context: Any, state: Any, index: Any, value: Any) -> Any:
    """state[index] += value in one step; returns what was there (acquire and release)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _field(context, builder, signature.args[0], args[0], args[1])
        return builder.atomic_rmw("add", place, args[2], ordering="acq_rel")

    return types.int64(state, types.int64, types.int64), codegen


@intrinsic
def call(typing_context: Any, address: Any) -> Any:
    """Call the C function at ``address``, which takes nothing."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function = ir.FunctionType(ir.IntType(32), [])
        builder.call(builder.inttoptr(args[0], function.as_pointer()), [])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def pause(typing_context: Any) -> Any:
    """Tell the processor that this is a waiting loop, where it has an instruction for that."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if builder.module.triple.startswith(("x86_64", "i686")):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(builder.module.declare_intrinsic("llvm.x86.sse2.pause", (), kind), [])
        return context.get_dummy_value()

    return types.void(), codegen
