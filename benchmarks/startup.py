"""``python -m benchmarks startup``: from the command ``bptool train`` to the end of its first step.

The command runs as a person types it, in a folder of its own. *Cold*: no compiled kernels, no
tokens, no measured engine; *warm*: all of them there from the run before.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.protocol import ROOT
from benchmarks.results import Result, Series

CONFIGURATION = ROOT / "configs" / "quickstart.yaml"
STEPS = 3


def first_step_seconds(cache: Path, kernels: Path) -> float:
    """Run the command once with its caches in the folder ``cache``, but those of kernels."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    caches = {"NUMBA_CACHE_DIR": str(kernels), "BPTOOL_CACHE_DIR": str(cache)}
    with tempfile.TemporaryDirectory() as folder:
        words = ["train", str(CONFIGURATION), "--json", "--out", str(Path(folder) / "run")]
        words += ["--set", f"training.steps={STEPS}", "--set", "schedule.warmup_steps=1"]
        start = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-m", "bptool", *words],
            cwd=folder,
            text=True,
            encoding="utf-8",
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, **caches},
        ) as process:
            assert process.stdout is not None
            seconds = None
            for line in process.stdout:
                if seconds is None and json.loads(line)["event"] == "step_done":
                    seconds = time.perf_counter() - start
        if process.returncode != 0 or seconds is None:
            raise SystemExit(f"benchmark: bptool train ended with code {process.returncode}")
        return seconds


def measure(n_cold: int, n_warm: int) -> list[Result]:
    """Some cold starts, each with caches of its own, and warm ones after them."""
    with tempfile.TemporaryDirectory() as folder:
        caches = [Path(folder) / str(i) for i in range(n_cold)]
        cold = [first_step_seconds(cache, cache / "kernels") for cache in caches]
        warm = [first_step_seconds(caches[0], caches[0] / "kernels") for _ in range(n_warm)]
    title = "from the command to the end of the first step"
    return [
        Result("startup", f"quickstart, {name}", title, "seconds", [Series("bptool", samples)])
        for name, samples in (("cold", cold), ("warm", warm))
    ]
