"""Kills a small study at random moments, ten times, and goes on with it each time.

    python -m benchmarks.kill_study [KILLS]

The tables at its end must be those of a study that was never killed, the clock's columns aside, and
no process may outlive a kill. ``tests/test_compare_study.py`` does the same with a few kills.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STUDY = "study.yaml"
CLOCK = ("step_seconds", "seconds_to_target")
CONFIG = """
model: {name: mlp, window: 2, n_embd: 4, n_hidden: 8, context: 8}
data: {text: book.txt, tokenizer: char}
training: {steps: 50, batch_size: 4, eval_interval: 10, eval_tokens: 200}
schedule: {name: cosine, warmup_steps: 10}
"""
PLAN = """
workloads:
  - {config: config.yaml, name: small}
optimizers: [adamw, sgd, adam]
ruleset: tuned
steps: 100
tuning: {trials: 3}
final: {seeds: 3}
timing_steps: 3
processes: 2
"""


def write_study(folder: Path) -> None:
    """Write a study of 18 tiny trials."""
    text = "the cat sat on the mat; the dog ran to the cat and sat.\n" * 60
    for name, content in (("config.yaml", CONFIG), (STUDY, PLAN), ("book.txt", text)):
        (folder / name).write_text(content, encoding="utf-8")


def start(folder: Path, out: str) -> subprocess.Popen[str]:
    """Begin the study, or go on with it where there is one."""
    words = [STUDY, "--out", out]
    if (folder / out / "results.jsonl").exists():
        words = ["--resume", out]
    command = [sys.executable, "-m", "bptool", "compare-optimizers", *words, "--json"]
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    with open(folder / f"{out}.json", "w", encoding="utf-8") as output:
        return subprocess.Popen(
            command, cwd=folder, text=True, stdout=output, env={**os.environ, "PYTHONPATH": path}
        )


def final_tables(out: Path) -> list[dict[str, Any]]:
    """What the study printed at its end, without what a clock measured."""
    report = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    for workload in report["workloads"]:
        for row in workload["optimizers"]:
            for key in CLOCK:
                del row[key]
    found: list[dict[str, Any]] = report["workloads"]
    return found


def children_of(pid: int) -> list[int]:
    """Processes that ``pid`` has started and that run, by ``ps``."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    )
    pairs = (map(int, line.split()) for line in listed.stdout.splitlines())
    return [child for child, parent in pairs if parent == pid]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be counted does not."""
    listed = subprocess.run(
        ["ps", "-p", str(pid), "-o", "stat="], capture_output=True, text=True, check=False
    )
    return listed.stdout.strip()[:1] not in ("", "Z")


def main() -> None:
    """Kill, resume, compare."""
    n_kills = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_study(folder)
        began = time.monotonic()
        start(folder, "whole").wait()
        took = time.monotonic() - began
        killed = 0
        while killed < n_kills:
            process = start(folder, "broken")
            time.sleep(random.uniform(0.2, 1.0) * took)
            children = children_of(process.pid)
            killed += process.poll() is None
            process.kill()
            process.wait()
            time.sleep(2.0)
            alive = [child for child in children if is_alive(child)]
            results = folder / "broken" / "results.jsonl"
            n = results.read_bytes().count(b"\n") if results.exists() else 0
            print(f"kill {killed}: {n} lines kept, {len(alive)} of {len(children)} children left")
            assert not alive
        start(folder, "broken").wait()
        same = final_tables(folder / "broken") == final_tables(folder / "whole")
        print("the tables are the same" if same else "THE TABLES DIFFER")
        sys.exit(not same)


if __name__ == "__main__":
    main()
