"""A run of a very small model in a process of its own: what any run takes beside its arrays.

That is the memory of the interpreter, the libraries and the compiled kernels, and the time before
the first step and after the last. It is a real ``bptool train`` with an evaluation, a sample, a
checkpoint and a plot, so nothing is left out, and it compiles the kernels that are not in the cache
yet.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bptool
from bptool.config.load import resolve
from bptool.errors import BptoolError
from bptool.files import write_json, write_text
from bptool.models.base import Model
from bptool.training.setup import sizes

STEPS = 3
TEXT = "the quick brown fox jumps over the lazy dog. "


@dataclass(frozen=True)
class SmallRun:
    """What a run of a very small model took.

    Attributes:
        program_bytes: most memory in use but for its arrays; None where no one tells.
        start_seconds: from the command to its first step.
        end_seconds: from the last step's evaluation to the end of the process.
    """

    program_bytes: int | None
    start_seconds: float
    end_seconds: float


def run_small(model: Model, engine: str, n_workers: int, plugins: Sequence[str] = ()) -> SmallRun:
    """Train ``model``, a small one, with a batch of one sequence a worker.

    Raises:
        BptoolError: the run failed.
    """
    training = {"steps": STEPS, "batch_size": n_workers, "workers": n_workers, "engine": engine}
    values: dict[str, Any] = {
        "model": {"name": model.name, **model.config.model_dump(mode="json")},
        "training": {**training, "eval_interval": STEPS, "eval_tokens": model.context},
        "sample": {"max_tokens": 2},
    }
    with tempfile.TemporaryDirectory(prefix="bptool-") as name:
        folder = Path(name)
        text = TEXT * (1 + 20 * model.context // len(TEXT))
        write_text(folder / "text.txt", text)
        values["data"] = {"text": [str(folder / "text.txt")]}
        write_json(folder / "config.yaml", values)
        found, compiled = _train(folder, "cold", plugins)
        if compiled:  # which takes more memory, and time
            found, _ = _train(folder, "warm", plugins)
        config = resolve(folder / "config.yaml").config
        arrays = sizes(config, type(model)(model.config, len(set(text))), len(text)).arrays_bytes
    program = found.program_bytes and found.program_bytes - arrays
    return SmallRun(program, found.start_seconds, found.end_seconds)


def _train(folder: Path, run: str, plugins: Sequence[str]) -> tuple[SmallRun, bool]:
    """Train into a folder; what it took, arrays and all, and whether kernels were compiled."""
    # -P: a working folder, which may be a stranger's, is no place to look for modules.
    command = [sys.executable, "-P", "-m", "bptool", "train", str(folder / "config.yaml"), "--json"]
    command += ["--out", str(folder / run), *(word for p in plugins for word in ("--plugin", p))]
    paths = [str(Path(bptool.__file__).parent.parent), *filter(None, sys.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    environment["BPTOOL_CACHE_DIR"] = str(folder / "cache")  # of the tokens
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment,
    )
    assert process.stdout is not None
    first = last = start
    compiled, peak = False, None
    for line in process.stdout:
        event = json.loads(line)
        match event["event"]:
            case "compiling" if event["done"]:
                compiled = not event["cached"]
            case "step_done" if event["step"] == 1:
                first = time.perf_counter() - event["seconds"]
            case "evaluated":
                last = time.perf_counter()
            case "training_finished":
                peak = event["peak_memory_bytes"]
    errors = process.communicate()[1]
    if process.returncode:
        raise BptoolError(f"a small run to measure failed: {' '.join(errors.split())}")
    return SmallRun(peak, first - start, time.perf_counter() - last), compiled
