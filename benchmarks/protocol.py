"""What is timed runs in a process of its own and answers one JSON line a request.

The first answer, without a request, says what can be timed: ``{"about": text, "timed": [name, ...],
"left_out": {name: why}, "facts": {...}}``. A request is ``{"run": name, "times": n}``; its answer
``{"seconds": [...], "value": x}``, one number for each time, and what the last one returned.
``{"peak_bytes": ...}`` asks for the most memory that the process has taken.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


class CannotRun(Exception):
    """A peer or a limit cannot be had on this machine; the message says why."""


@dataclass(frozen=True)
class Served:
    """What a process can time.

    Attributes:
        about: versions and settings, for the report.
        timed: functions by name; what one returns (a loss, as a rule) goes into the answer.
        left_out: what cannot be timed here, and why.
        facts: numbers that the other side needs, such as the operations of one call.
    """

    about: str
    timed: Mapping[str, Callable[[], float | None]]
    left_out: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, float] = field(default_factory=dict)


def serve(make: Callable[[], Served]) -> None:
    """The process's side: answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes to the standard error

    def answer(value: Mapping[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        served = make()
    except CannotRun as error:
        answer({"cannot": str(error)})
        return
    kept = ("about", "left_out", "facts")
    answer({"timed": list(served.timed), **{k: getattr(served, k) for k in kept}})
    for line in sys.stdin:
        request = json.loads(line)
        if "peak_bytes" in request:
            answer({"peak_bytes": peak_bytes()})
            continue
        work, seconds, value = served.timed[request["run"]], [], None
        for _ in range(request["times"]):
            start = time.perf_counter()
            value = work()
            seconds.append(time.perf_counter() - start)
        answer({"seconds": seconds, "value": value})


def peak_bytes() -> int:
    """The most memory that this process has had resident, shared libraries included."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):  # ru_maxrss would count the parent's before the exec
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    if sys.platform == "win32":
        return _windows_peak_bytes()
    import resource

    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else found * 1024


def _windows_peak_bytes() -> int:
    import ctypes
    from ctypes import wintypes

    class Counters(ctypes.Structure):
        _fields_ = [
            ("size", wintypes.DWORD),
            ("page_faults", wintypes.DWORD),
            *((name, ctypes.c_size_t) for name in ("peak_working_set", "working_set")),
            *((f"other_{i}", ctypes.c_size_t) for i in range(6)),
        ]

    counters = Counters(size=ctypes.sizeof(Counters))
    windows: Any = ctypes
    process = windows.windll.kernel32.GetCurrentProcess()
    ask = windows.windll.psapi.GetProcessMemoryInfo
    ask.argtypes = [wintypes.HANDLE, ctypes.c_void_p, wintypes.DWORD]
    ask(process, ctypes.byref(counters), counters.size)
    return int(counters.peak_working_set)


def thread_limits(threads: int) -> dict[str, str]:
    """Environment variables that hold the libraries that peers use to so many threads."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    # NPROC is where XLA's CPU client takes the size of its pool from, before the processor.
    return dict.fromkeys((*names, "NPROC"), str(threads))


class Contender:
    """This side of one process.

    Args:
        name: of ``benchmarks.peers.MAKERS``.
        settings: what its maker is called with, as JSON values; ``threads`` among them.

    Raises:
        CannotRun: the process says that it cannot run here.
    """

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        self.name = name
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        limits = thread_limits(settings["threads"])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.peers", name, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, **limits, "PYTHONPATH": path},
        )
        ready = self._read()
        if "cannot" in ready:
            self.close()
            raise CannotRun(ready["cannot"])
        self.about: str = ready["about"]
        self.timed: list[str] = ready["timed"]
        self.left_out: dict[str, str] = ready["left_out"]
        self.facts: dict[str, float] = ready["facts"]
        self.value: float | None = None
        """What the last run returned."""

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"benchmark: {self.name} ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def run(self, name: str, times: int = 1) -> list[float]:
        """Seconds of each of so many calls of what is called ``name`` there."""
        answer = self._ask({"run": name, "times": times})
        self.value = answer["value"]
        seconds: list[float] = answer["seconds"]
        return seconds

    def peak_bytes(self) -> int:
        """The most memory that the process has taken so far."""
        return int(self._ask({"peak_bytes": True})["peak_bytes"])

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
