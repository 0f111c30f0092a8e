"""Kills bptool with SIGKILL at random moments and goes on each time.

    python -m benchmarks.reliability.kill [KILLS] [KIND ...]

Kinds: those of :mod:`benchmarks.reliability.kinds`, and ``compare`` (a study; its own script,
``benchmarks.kill_study``, sends other signals too). Of each kind a whole run is made first. Then
runs are killed at moments drawn from all of its time, start-up included, and gone on with until
they end. In the end weights, optimizer state, metrics and samples, or the tables of a study, must
be those of the whole run, bit for bit, and no temporary file may be left. The seed is printed;
``KILL_SEED`` sets it.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import kill_study
from benchmarks.reliability.kinds import COMPARE, KINDS, PARENTS, Kind, write_inputs

ROOT = Path(__file__).resolve().parent.parent.parent
KILLS_PER_RUN = 8
"""Then it may end, so that later moments are met too."""


def start(folder: Path, words: Sequence[str], out: str) -> subprocess.Popen[str]:
    """Begin a command as a process of its own, with a cache of tokens of the run's own."""
    arguments = [word.replace("{out}", out) for word in words]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    cache = str(folder / f"cache-{out}")
    return subprocess.Popen(
        [sys.executable, "-m", "bptool", *arguments],
        cwd=folder,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={
            **os.environ,
            **{"PYTHONPATH": path, "BPTOOL_CACHE_DIR": cache},
            "BPTOOL_ENGINE": "tiled",  # measured anew in each cache, it might be another one
        },
    )


def finish(folder: Path, words: Sequence[str], out: str) -> float:
    """Run a command to its end; how long it took."""
    began = time.monotonic()
    process = start(folder, words, out)
    _, err = process.communicate(timeout=1200)
    assert process.returncode == 0, err
    return time.monotonic() - began


def left_behind(run: Path) -> dict[str, Any]:
    """Weights, optimizer state, metrics without timings, samples."""
    index = json.loads((run / "checkpoints/index.json").read_bytes())
    last = run / "checkpoints" / index["last"]
    records = [json.loads(line) for line in (run / "metrics.jsonl").open(encoding="utf-8")]
    for record in records:
        record.pop("seconds", None)
    return {
        "names": (index["last"], index["best"]),
        "hashes": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in last.iterdir()
        },
        "metrics": records,
        "samples": (run / "samples.txt").read_bytes() if (run / "samples.txt").exists() else b"",
    }


def leftovers(folder: Path) -> list[str]:
    """Temporary files and locks that nobody took away."""
    patterns = (".writing-*", "*.part", "*.lock")
    return [str(p.relative_to(folder)) for pattern in patterns for p in folder.rglob(pattern)]


def kill_and_go_on(
    folder: Path, kind: Kind, out: str, seconds: float, n_kills: int, draw: random.Random
) -> list[float]:
    """Run to the end, killed up to ``n_kills`` times; the moments, in seconds of a process. A run
    that ends sooner than its moment comes is not killed then."""
    moments: list[float] = []
    while True:
        has_begun = (folder / out / "manifest.json").exists()
        process = start(folder, kind.resume if has_begun else kind.begin, out)
        if len(moments) < n_kills:
            moment = draw.uniform(0.0, seconds)
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                moments.append(moment)
        _, err = process.communicate(timeout=1200)
        if process.returncode == 0:
            return moments
        assert process.returncode == -signal.SIGKILL, f"{kind.name}, {moments}: {err}"


def kill_kind(folder: Path, kind: Kind, n_kills: int, draw: random.Random) -> int:
    """All kills of one kind; how many there were."""
    finish(folder, kind.begin, f"whole-{kind.name}")  # compiles what is not yet
    seconds = finish(folder, kind.begin, f"whole2-{kind.name}")
    want = left_behind(folder / f"whole-{kind.name}")
    assert left_behind(folder / f"whole2-{kind.name}") == want, "two whole runs differ"
    print(f"{kind.name}: a run that nobody kills takes {seconds:.1f} s", flush=True)
    done = number = 0
    while done < n_kills:
        out = f"{kind.name}-{number}"
        moments = kill_and_go_on(
            folder, kind, out, seconds, min(KILLS_PER_RUN, n_kills - done), draw
        )
        found = left_behind(folder / out)
        different = [key for key in want if found[key] != want[key]]
        assert not different, f"{out} differs in {different} after kills at {moments}"
        finish(folder, kind.resume, out)  # which takes away what a kill may have left
        assert not leftovers(folder / out), leftovers(folder / out)
        done, number = done + len(moments), number + 1
        if not moments:  # the machine has become faster
            seconds *= 0.7
            continue
        shown = ", ".join(f"{moment:.2f}" for moment in moments)
        print(f"{out}: killed at {shown} s; every bit is the same", flush=True)
    return done


def kill_studies(folder: Path, n_kills: int, draw: random.Random) -> int:
    """Kills of a study; how many there were."""
    kill_study.write_study(folder, steps=400)
    began = time.monotonic()
    kill_study.finish(kill_study.start(folder, "whole"))
    seconds = time.monotonic() - began
    print(f"{COMPARE}: a study that nobody kills takes {seconds:.1f} s", flush=True)
    kill = kill_study.kill_study(signal.SIGKILL)
    want, done, number = kill_study.final_tables(folder / "whole"), 0, 0
    while done < n_kills:
        out, moments = f"study-{number}", list[float]()
        process = kill_study.start(folder, out)
        while len(moments) < min(KILLS_PER_RUN, n_kills - done):
            moment = draw.uniform(0.0, seconds)
            try:
                process.wait(moment)
                break
            except subprocess.TimeoutExpired:
                kill(process)
                moments.append(moment)
                process = kill_study.start(folder, out)
        kill_study.finish(process)
        kill_study.finish(kill_study.start(folder, out))  # tries again what failed
        assert kill_study.final_tables(folder / out) == want, f"{out} differs, killed at {moments}"
        assert not leftovers(folder / out), leftovers(folder / out)
        shown = ", ".join(f"{moment:.2f}" for moment in moments)
        print(f"{out}: killed at {shown} s; the tables are the same", flush=True)
        done, number = done + len(moments), number + 1
        if not moments:  # the machine has become faster
            seconds *= 0.7
    return done


def main() -> None:
    """Kill each kind its share of times."""
    n_kills = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    wanted = sys.argv[2:] or [*KINDS, COMPARE]
    seed = int(os.environ.get("KILL_SEED", random.randrange(10**6)))
    draw = random.Random(seed)
    print(f"seed {seed}", flush=True)
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder)
        needed = {parent for what in wanted if what != COMPARE for parent in KINDS[what].parents}
        for parent, command in PARENTS.items():
            if parent in needed:
                finish(folder, command, parent)
        for number, what in enumerate(wanted):
            share = n_kills // len(wanted) + (number < n_kills % len(wanted))
            if what == COMPARE:
                (folder / "study").mkdir()
                counts[what] = kill_studies(folder / "study", share, draw)
            else:
                counts[what] = kill_kind(folder, KINDS[what], share, draw)
    print(f"{sum(counts.values())} kills: {counts}; every bit is the same", flush=True)


if __name__ == "__main__":
    main()
