"""Kills a small study at random moments, ten times, and goes on with it each time.

    python -m benchmarks.kill_study [KILLS]

Each time one of these, at random: the study's process gets SIGKILL, SIGTERM or SIGINT, its whole
group gets SIGINT, as from Ctrl-C, or one of its workers gets SIGKILL or SIGTERM in its trial. The
tables at its end must be those of a study that was never killed, the clock's columns aside, and no
process may outlive the study. ``tests/test_compare_study.py`` does the same with a few kills.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STUDY = "study.yaml"
CLOCK = ("step_seconds", "seconds_to_target")
PATIENCE_SECONDS = 30.0
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
timing_steps: 10
processes: 2
"""


def write_study(folder: Path, steps: int = 100) -> None:
    """Write a study of 18 tiny trials."""
    text = "the cat sat on the mat; the dog ran to the cat and sat.\n" * 60
    plan = PLAN.replace("steps: 100", f"steps: {steps}")
    for name, content in (("config.yaml", CONFIG), (STUDY, plan), ("book.txt", text)):
        (folder / name).write_text(content, encoding="utf-8")


def start(folder: Path, out: str, *launcher: str) -> subprocess.Popen[str]:
    """Begin the study, or go on with it where there is one, in a process group of its own.

    Args:
        launcher: how Python is started in place of this one alone; then with ``--mpi``.
    """
    words = [STUDY, "--out", out]
    if (folder / out / "results.jsonl").exists():
        words = ["--resume", out]
    if launcher:
        words.append("--mpi")
    python = launcher or (sys.executable,)
    command = [*python, "-m", "bptool", "compare-optimizers", *words, "--json"]
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    with open(folder / f"{out}.json", "w", encoding="utf-8") as output:
        return subprocess.Popen(
            command,
            cwd=folder,
            text=True,
            stdout=output,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a study to end by itself; what it said on the standard error."""
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return err


def final_tables(out: Path) -> list[dict[str, Any]]:
    """Those of a study whose output is in a file beside its folder."""
    return tables(out.with_suffix(".json").read_text(encoding="utf-8"))


def tables(said: str) -> list[dict[str, Any]]:
    """What a study printed at its end, without what a clock measured."""
    report = json.loads(said)
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


def end(process: subprocess.Popen[str], number: int, group: bool = False) -> list[int]:
    """Signal a study, or its whole group, and wait; the children that outlive it.

    A study that is stopped by SIGINT or SIGTERM ends by itself with exit code 130 or
    143, once it listens.
    """
    children = children_of(process.pid)
    if group:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode in (-number, 128 + number, 0), (process.returncode, err)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(map(is_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return [child for child in children if is_alive(child)]


def kill_study(number: int, group: bool = False) -> Callable[[subprocess.Popen[str]], str]:
    """A way to kill: the study's process, or its group."""

    def kill(process: subprocess.Popen[str]) -> str:
        alive = end(process, number, group)
        assert not alive, f"children {alive} outlive the study"
        return f"{signal.Signals(number).name} to the {'group' if group else 'study'}"

    return kill


def kill_worker(number: int) -> Callable[[subprocess.Popen[str]], str]:
    """A way to kill: one of the study's workers; the study goes on."""

    def kill(process: subprocess.Popen[str]) -> str:
        children = children_of(process.pid)
        if not children:
            return ""
        os.kill(random.choice(children), number)
        return f"{signal.Signals(number).name} to a worker"

    return kill


WAYS = (
    kill_study(signal.SIGKILL),
    kill_study(signal.SIGTERM),
    kill_study(signal.SIGINT),
    kill_study(signal.SIGINT, group=True),
    kill_worker(signal.SIGKILL),
    kill_worker(signal.SIGTERM),
)


def kill_and_go_on(folder: Path, out: str, seconds: float, n_kills: int) -> int:
    """Run a study to its end, killed up to ``n_kills`` times on the way; how often it was."""
    n_killed = 0
    process = start(folder, out)
    while n_killed < n_kills:
        time.sleep(random.uniform(0.05, 1.0) * seconds)
        if process.poll() is not None and process.returncode == 0:
            break
        way = WAYS[n_killed % len(WAYS)] if n_killed < len(WAYS) else random.choice(WAYS)
        what = way(process)
        if not what:
            continue  # it has no workers yet
        n_killed += 1
        results = folder / out / "results.jsonl"
        n = results.read_bytes().count(b"\n") if results.exists() else 0
        print(f"{out}: {what}, {n} lines kept", flush=True)
        if process.poll() is not None:
            process = start(folder, out)
    finish(process)
    finish(start(folder, out))  # what failed because its workers died twice is tried again
    return n_killed


def main() -> None:
    """Kill, resume, compare."""
    n_kills = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_study(folder, steps=1500)
        began = time.monotonic()
        finish(start(folder, "whole"))
        seconds = time.monotonic() - began
        print(f"a study that nobody kills takes {seconds:.0f} s", flush=True)
        n_killed, outs = 0, []
        while n_killed < n_kills:
            outs.append(f"broken-{len(outs)}")
            n_killed += kill_and_go_on(folder, outs[-1], seconds / 2, n_kills - n_killed)
        same = [final_tables(folder / out) == final_tables(folder / "whole") for out in outs]
    print(f"{n_killed} kills in {len(outs)} studies: tables are the same: {same}")
    sys.exit(not all(same))


if __name__ == "__main__":
    main()
