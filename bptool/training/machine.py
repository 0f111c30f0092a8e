"""What the machine has: cores that may be used, memory, the matrix engine and its peak."""

from __future__ import annotations

import dataclasses
import functools
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

import bptool
from bptool.errors import ConfigError, did_you_mean
from bptool.ops import jit
from bptool.ops.matmul import MatmulEngine, blas_engine, matmul, tiled_engine
from bptool.ops.matmul.libraries import LIBRARIES, find_library, version_of
from bptool.ops.matmul.target import VECTOR_BYTES, has_fma
from bptool.training.engine_choice import fastest


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
    why: str = ""
    """What ``auto`` took it for; empty where it was named."""


ENGINES = ("tiled", *LIBRARIES)
ENGINE_VARIABLE = "BPTOOL_ENGINE"
"""Environment variable: what ``auto`` means, without measuring."""


def choose_engine(name: str) -> Engine:
    """The engine called ``name``; for ``auto`` the one that was fastest here when it was measured.

    Every BLAS in the process is held to one thread from where one is used: the workers are the
    threads.

    Raises:
        ConfigError: there is no such engine, or its library is not on this machine.
    """
    if name != "auto":
        return _named(name, "training.engine")
    forced = os.environ.get(ENGINE_VARIABLE)
    if forced:
        return dataclasses.replace(_named(forced, ENGINE_VARIABLE), why=f"by {ENGINE_VARIABLE}")
    return _fastest()


@functools.cache
def _fastest() -> Engine:
    """Found once in a process, so that all of it multiplies alike."""
    ours = ("tiled",) if has_fma() else ()  # without, it calls a function of the library each lane
    versions = {name: version_of(name) for name in LIBRARIES}

    def load() -> dict[str, Callable[[npt.DTypeLike], MatmulEngine]]:
        there = [name for name in LIBRARIES if find_library(name) is not None]
        return {name: _named(name, "").make for name in (*ours, *there)}

    about = {**describe(), "kernels": jit.kernel_fingerprint(), "libraries": versions}
    choice = fastest(load, about, usable_cores())
    return dataclasses.replace(_named(choice.name, "training.engine"), why=choice.why)


def engine_of_run(configured: str, saved: object) -> str:
    """The engine to go on with in a run: the one configured; for ``auto`` the one that ``saved``
    names in its manifest, where that can be used here."""
    is_there = saved == "tiled" or (saved in LIBRARIES and find_library(str(saved)) is not None)
    return str(saved) if configured == "auto" and is_there else configured


def _named(name: str, place: str) -> Engine:
    if name not in ENGINES:
        raise ConfigError(f"{place}: '{name}'{did_you_mean(name, ('auto', *ENGINES))}")
    if name == "tiled":
        return Engine(name, f"bptool {bptool.__version__}", tiled_engine)
    library = find_library(name)
    if library is None:
        remedy = {"mkl": "pip install mkl", "accelerate": "it is a part of macOS"}[name]
        raise ConfigError(f"{place}: '{name}' is not on this machine; {remedy}, or leave it 'auto'")
    return Engine(name, library.version, functools.partial(blas_engine, library=name))


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
