"""What the machine has: cores that may be used, memory, the matrix engine and its peak."""

from __future__ import annotations

import math
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt
import threadpoolctl

import bptool
from bptool.errors import ConfigError, did_you_mean
from bptool.ops.matmul import MatmulEngine, blas_engine, matmul, tiled_engine
from bptool.ops.matmul.target import VECTOR_BYTES, has_fma


def usable_cores() -> int:
    """Cores this process may use: its affinity, cut by a cgroup's CPU quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            cores = min(cores, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return max(1, cores)


def total_memory_bytes() -> int | None:
    """Memory this process may use at most, or None where the system does not tell."""
    found: list[int] = []
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    elif sys.platform == "win32":
        import ctypes

        class Status(ctypes.Structure):
            _fields_ = [
                ("length", ctypes.c_ulong),
                ("load", ctypes.c_ulong),
                *((name, ctypes.c_ulonglong) for name in ("total", "available", "a", "b")),
                *((name, ctypes.c_ulonglong) for name in ("c", "d", "e")),
            ]

        status = Status(length=ctypes.sizeof(Status))
        if ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
            found.append(int(status.total))
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        if limit != "max":
            found.append(int(limit))
    except (OSError, ValueError):
        pass
    return min(found) if found else None


@dataclass(frozen=True)
class Engine:
    """What multiplies matrices: its name and version, and how kernels get it."""

    name: str
    version: str
    make: Callable[[npt.DTypeLike], MatmulEngine]
    """The product for float32 or float64, as kernels take it; one for each thread."""


ENGINES = ("tiled", "blas")


def choose_engine(name: str) -> Engine:
    """The engine called ``name``; for ``auto`` our own, or a BLAS where there is no hardware FMA.

    Every BLAS in the process is held to one thread from here on: the workers are the threads.
    """
    if name not in ("auto", *ENGINES):
        raise ConfigError(f"training.engine: '{name}'{did_you_mean(name, ('auto', *ENGINES))}")
    if name == "tiled" or (name == "auto" and has_fma()):
        return Engine("tiled", f"bptool {bptool.__version__}", tiled_engine)
    os.environ.setdefault("VECLIB_MAXIMUM_THREADS", "1")
    import scipy.linalg.cython_blas  # loads the BLAS that is then limited

    threadpoolctl.threadpool_limits(1, user_api="blas")
    version = f"scipy {scipy.__version__}"
    for info in threadpoolctl.threadpool_info():
        home = Path(str(info.get("filepath"))).parent.name
        if info.get("user_api") == "blas" and home.startswith("scipy"):
            version += f", {info['internal_api']} {info['version']}"
            version += f" {info.get('architecture', '')}".rstrip()
    return Engine("blas", version, lambda dtype: blas_engine(np.dtype(dtype)))


def measure_peak_flops(engine: Engine, run_on_all: Callable[[Callable[[int], Any]], Any]) -> float:
    """Floating-point operations a second of 512 x 512 products on all workers at once."""
    size, n_products = 512, 6
    operands = {}

    def product(worker: int) -> None:
        if worker not in operands:
            arrays = [np.ones((size, size), np.float32) for _ in range(3)]
            operands[worker] = (engine.make(np.float32), *arrays)
        kernel_engine, out, a, b = operands[worker]
        for _ in range(n_products):
            matmul(kernel_engine, out, a, False, b, True, False)

    best = math.inf
    for _ in range(4):
        start = time.perf_counter()
        run_on_all(product)
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 * n_products * len(operands) / best


def describe() -> dict[str, Any]:
    """What a manifest says of the machine."""
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": processor_name(),
        "llvm_cpu": os.environ.get("NUMBA_CPU_NAME") or llvm.get_host_cpu_name(),
        "vector_width_bits": 8 * VECTOR_BYTES,
        "cores": usable_cores(),
    }


def processor_name() -> str:
    """The processor's own name where the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
