"""What the machine has: cores that may be used, memory, the matrix engine, and its limits."""

from __future__ import annotations

import dataclasses
import functools
import itertools
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
from bptool.ops.cores import usable_cores
from bptool.ops.matmul import MatmulEngine, blas_engine, tiled_engine
from bptool.ops.matmul.libraries import LIBRARIES, find_library, version_of
from bptool.ops.matmul.peak import flops_of, multiply_adds
from bptool.ops.matmul.target import VECTOR_BYTES, has_fma
from bptool.ops.memory import aligned_zeros
from bptool.ops.streams import DTYPE, STREAMS
from bptool.training.engine_choice import fastest
from bptool.training.timing import busy_clock


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


def peak_memory_bytes() -> int | None:
    """Most memory that this process had resident so far, or None where the system does not tell."""
    try:  # not getrusage on Linux: what it says begins with what the parent had
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError, LookupError):
        pass
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes here
    if sys.platform == "win32":
        return _windows_peak_memory_bytes()
    return None


def _windows_peak_memory_bytes() -> int | None:
    import ctypes
    from ctypes import wintypes

    class Counters(ctypes.Structure):
        _fields_ = [
            *((name, wintypes.DWORD) for name in ("size", "page_faults")),
            *((name, ctypes.c_size_t) for name in ("peak_resident", "resident", "a", "b", "c")),
            *((name, ctypes.c_size_t) for name in ("d", "e", "f")),
        ]

    counters = Counters(size=ctypes.sizeof(Counters))
    process = ctypes.windll.kernel32.GetCurrentProcess  # type: ignore[attr-defined]
    process.restype = wintypes.HANDLE
    query = ctypes.windll.kernel32.K32GetProcessMemoryInfo  # type: ignore[attr-defined]
    query.argtypes = (wintypes.HANDLE, ctypes.c_void_p, wintypes.DWORD)
    if query(process(), ctypes.byref(counters), counters.size):
        return int(counters.peak_resident)
    return None


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
    if configured != "auto" or not isinstance(saved, str):
        return configured
    is_there = saved == "tiled" or (saved in LIBRARIES and find_library(saved) is not None)
    return saved if is_there else configured


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


RunOnAll = Callable[[Callable[[int], Any]], Any]
"""Calls a function with each worker's number, all at once, as a worker team's ``run`` does."""

PEAK_SECONDS, PEAK_TURNS = 0.3, 400_000
"""How long the peak is measured, in rounds of so many turns, some milliseconds each."""
WORKING_SETS = tuple(2**power for power in range(14, 27, 2))
"""Bytes that a worker streams through, from the first cache to main memory."""
STREAMED_BYTES = 2**28
"""Most that all workers take for it."""
STREAM_ROUNDS, STREAM_ROUND_BYTES = 5, 2**24


def measure_peak_flops(run_on_all: RunOnAll) -> float:
    """Multiply-adds between registers on all workers at once, in FLOPs a second.

    Of many short rounds the fastest, since other programs can only slow one down; the first warm
    the cores up.
    """
    factor, term = np.float32(0.5), np.float32(1.0)

    def work(worker: int) -> float:
        start = busy_clock()
        multiply_adds(PEAK_TURNS, factor, term)
        return busy_clock() - start

    run_on_all(lambda worker: multiply_adds(1, factor, term))  # compiles, or loads
    fastest, stop = math.inf, time.perf_counter() + PEAK_SECONDS
    while time.perf_counter() < stop:
        seconds = run_on_all(work)
        fastest = min(fastest, max(seconds))
    return len(seconds) * flops_of(PEAK_TURNS, factor.itemsize) / fastest


def measure_bandwidths(run_on_all: RunOnAll, n_workers: int) -> dict[int, float]:
    """Bytes a second that all workers read and write together, by the bytes that each goes through.

    The fastest of several kinds of streams and rounds; never less than what a larger set reached.
    """
    for stream in STREAMS:  # compiles, or loads
        stream(np.zeros(3, DTYPE), 1)
    found: dict[int, float] = {}
    for n_bytes in (n for n in WORKING_SETS if n * n_workers <= STREAMED_BYTES):
        arrays = [aligned_zeros((n_bytes // DTYPE.itemsize,), DTYPE) for _ in range(n_workers)]
        for array in arrays:
            array[:] = 1  # pages that were never written would all be read from one
        n_passes = max(1, STREAM_ROUND_BYTES // n_bytes)

        def pass_over(worker: int, stream: Any, arrays: Any = arrays, n: int = n_passes) -> float:
            start = busy_clock()
            stream(arrays[worker], n)
            return busy_clock() - start

        found[n_bytes] = 0.0
        for stream, times in STREAMS.items():
            work = functools.partial(pass_over, stream=stream)
            fastest = min(max(run_on_all(work)) for _ in range(STREAM_ROUNDS))
            found[n_bytes] = max(found[n_bytes], n_workers * n_passes * times * n_bytes / fastest)
    for larger, smaller in itertools.pairwise(sorted(found, reverse=True)):
        found[smaller] = max(found[smaller], found[larger])
    return found


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
