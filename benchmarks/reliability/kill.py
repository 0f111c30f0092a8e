"""Kills bptool with SIGKILL at random moments and goes on each time.

    python -m benchmarks.reliability.kill [KILLS] [KIND ...]

Kinds: ``train`` (start and resume), ``prepare`` (a text that becomes tokens), ``finetune``, and
``compare`` (a study; its own script is ``benchmarks.kill_study``). Of each kind a whole run is made
first. Then runs are killed at moments drawn from all of its time, start-up included, and gone on
with until they end. In the end weights, metrics and samples must be those of the whole run, bit for
bit, and no temporary file may be left. The seed is printed; ``KILL_SEED`` sets it.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import kill_study

ROOT = Path(__file__).resolve().parent.parent.parent
KILLS_PER_RUN = 8
"""Then it may end, so that later moments are met too."""
CONFIG = """
model: {name: gpt2, n_layer: 2, n_head: 2, n_embd: 16, context: 16, dropout: 0.1}
data: {text: book.txt, tokenizer: char}
training: {steps: 800, batch_size: 8, eval_interval: 200, checkpoint_interval: 20,
           eval_tokens: 256, workers: 2}
optimizer: {name: adamw, learning_rate: 0.01}
sample: {max_tokens: 16}
"""
PREPARE = """
model: {name: mlp, window: 2, n_embd: 4, n_hidden: 8, context: 8}
data: {text: long.txt, tokenizer: {name: bpe, vocab_size: 512}}
training: {steps: 20, batch_size: 4, eval_tokens: 64, workers: 1}
sample: {max_tokens: 0}
"""


@dataclass
class Kind:
    """Something to kill.

    Attributes:
        begin: the command that starts a run in the folder ``{out}``.
        resume: the one that goes on with it; by default ``train {out} --resume``.
    """

    name: str
    begin: list[str]
    resume: tuple[str, ...] = ("train", "{out}", "--resume", "--quiet")


KINDS = {
    "train": Kind("train", ["train", "config.yaml", "--out", "{out}", "--quiet"]),
    "prepare": Kind("prepare", ["train", "prepare.yaml", "--out", "{out}", "--quiet"]),
    "finetune": Kind(
        "finetune",
        [
            *("finetune", "sft", "parent", "--data", "records.jsonl", "--out", "{out}", "--quiet"),
            *("--epochs", "40", "--set", "training.checkpoint_interval=10"),
        ],
    ),
}


def write_inputs(folder: Path) -> None:
    """Texts, configurations and records."""
    draw = random.Random(3)
    words = "the a cat dog sees likes red big and house tree, sat mat.\n".split(" ")
    for name, n in (("book.txt", 3000), ("long.txt", 300_000)):
        text = " ".join(draw.choice(words) for _ in range(n))
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
    (folder / "prepare.yaml").write_text(PREPARE, encoding="utf-8")
    with (folder / "records.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(120):
            asked = {"prompt": draw.choice(words), "completion": draw.choice(words)}
            file.write(json.dumps(asked) + "\n")


def start(folder: Path, words: list[str] | tuple[str, ...], out: str) -> subprocess.Popen[str]:
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


def finish(folder: Path, words: list[str] | tuple[str, ...], out: str) -> float:
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
    """Temporary files that nobody took away."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".writing-*")]


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


def kill_studies(folder: Path, n_kills: int) -> int:
    """Kills of a study, at random and by several signals."""
    kill_study.write_study(folder, steps=400)
    began = time.monotonic()
    kill_study.finish(kill_study.start(folder, "whole"))
    seconds = time.monotonic() - began
    done, number, want = 0, 0, kill_study.final_tables(folder / "whole")
    while done < n_kills:
        out = f"study-{number}"
        done += kill_study.kill_and_go_on(folder, out, seconds / 2, n_kills - done)
        assert kill_study.final_tables(folder / out) == want, out
        number += 1
    return done


def main() -> None:
    """Kill each kind its share of times."""
    n_kills = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    wanted = sys.argv[2:] or [*KINDS, "compare"]
    seed = int(os.environ.get("KILL_SEED", random.randrange(10**6)))
    draw = random.Random(seed)
    print(f"seed {seed}", flush=True)
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder)
        if "finetune" in wanted:
            parent = ["train", "config.yaml", "--out", "parent", "--quiet"]
            finish(folder, [*parent, "--set", "training.steps=100"], "parent")
        for number, what in enumerate(wanted):
            share = n_kills // len(wanted) + (number < n_kills % len(wanted))
            if what == "compare":
                (folder / "study").mkdir()
                counts[what] = kill_studies(folder / "study", share)
            else:
                counts[what] = kill_kind(folder, KINDS[what], share, draw)
    print(f"{sum(counts.values())} kills: {counts}; every bit is the same", flush=True)


if __name__ == "__main__":
    main()
