"""Trains a tiny model for very many steps and watches its memory and its open files.

    python -m benchmarks.reliability.soak [STEPS]

After a tenth of the steps the process's memory is the measure: at every later look it may be larger
by 1 % at most, and no file more may be open. At the end ``metrics.jsonl`` must hold every step and
evaluation.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from bptool.config.load import resolve
from bptool.training.begin import start_run
from bptool.training.events import Event, StepDone
from bptool.training.metrics import read_metrics
from bptool.training.run_folder import RunFolder

STEPS = 100_000
LOOKS = 200
MOST_GROWTH = 0.01


def memory_bytes() -> int:
    """What the process has in memory now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    """Descriptors that are open."""
    return len(os.listdir("/proc/self/fd"))


@dataclass
class Watcher:
    """A listener that looks now and then."""

    every: int
    memory: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepDone) and event.step % self.every == 0:
            self.memory.append(memory_bytes())
            self.files.append(open_files())


def soak(folder: Path, n_steps: int, looks: int = LOOKS) -> dict[str, float]:
    """Train, and say what was seen."""
    text = folder / "book.txt"
    text.write_text("the cat sat on the mat; the dog ran to the cat.\n" * 200, encoding="utf-8")
    config = resolve(
        None,
        [],
        {
            "model": {"name": "mlp", "window": 2, "n_embd": 4, "n_hidden": 8, "context": 8},
            "data": {"text": [str(text)]},
            "training": {
                **{"steps": n_steps, "batch_size": 4, "workers": 1, "eval_tokens": 64},
                **{"eval_interval": n_steps // 100, "checkpoint_interval": n_steps // 200},
            },
            "sample": {"max_tokens": 8},
        },
    ).config
    watcher = Watcher(max(1, n_steps // looks))
    training = start_run(config, RunFolder(folder / "run"), [watcher])
    try:
        training.run()
    finally:
        training.pieces.close()
    first = len(watcher.memory) // 10
    records = read_metrics(folder / "run" / "metrics.jsonl")
    steps = [record["step"] for record in records if record["kind"] == "step"]
    evaluations = [record["step"] for record in records if record["kind"] == "evaluation"]
    assert steps == list(range(1, n_steps + 1)), "a step is missing"
    assert len(evaluations) == len(range(0, n_steps, n_steps // 100)), "an evaluation is missing"
    base, most = watcher.memory[first], max(watcher.memory[first:])
    return {
        "steps": n_steps,
        "memory_bytes_after_a_tenth": base,
        "most_memory_bytes": most,
        "growth": most / base - 1,
        "open_files_after_a_tenth": watcher.files[first],
        "most_open_files": max(watcher.files[first:]),
    }


def main() -> None:
    """Soak, print, and fail where memory or files grew."""
    with tempfile.TemporaryDirectory() as name:
        found = soak(Path(name), int(sys.argv[1]) if len(sys.argv) > 1 else STEPS)
    print(json.dumps(found, indent=2))
    leaked = found["most_open_files"] > found["open_files_after_a_tenth"]
    sys.exit(int(found["growth"] > MOST_GROWTH or leaked))


if __name__ == "__main__":
    main()
