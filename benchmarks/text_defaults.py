"""What ``bptool train TEXT`` reaches on a text without a configuration, beside counting.

``python -m benchmarks.text_defaults novel.txt essays.txt --seeds 3``: a row per text and seed, with
bits per byte of the best checkpoint, of the counted model and of bzip2 on the same bytes, and the
model FLOPs that training took, which say "the same time" on a machine that is not quiet. ``--set``
changes a setting of all runs, so that alternatives are compared: the FLOPs have to agree.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.protocol import ROOT


def measure(text: Path, seed: int, sets: list[str]) -> dict[str, Any]:
    """Train on ``text`` as a person would, and gather what the events say."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as folder:
        words = ["train", str(text.absolute()), "--json", "--out", str(Path(folder) / "run")]
        for setting in (f"training.seed={seed}", "sample.max_tokens=0", *sets):
            words += ["--set", setting]
        done = subprocess.run(
            [sys.executable, "-m", "bptool", *words],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            text=True,
            encoding="utf-8",
            check=False,
        )
    if done.returncode != 0:
        raise SystemExit(f"benchmark: bptool train {text} ended with code {done.returncode}")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    end = events[-1]
    evaluations = [event for event in events if event["event"] == "evaluated"]
    best = next(event for event in evaluations if event["step"] == end["best_step"])
    return {
        "text": text.name,
        "seed": seed,
        "steps": end["step"],
        "best_step": end["best_step"],
        "flops": sum(event["flops"] for event in events if event["event"] == "step_done"),
        "bits_per_byte": best["bits_per_byte"],
        "order": end["counted"]["order"],
        "counted": end["counted"]["bits_per_byte"],
        "bzip2": end["counted"]["bzip2_bits_per_byte"],
    }


def main(
    texts: list[Path],
    seeds: Annotated[int, typer.Option(help="Runs on each text.", min=1)] = 3,
    sets: Annotated[list[str] | None, typer.Option("--set", help="A setting of all runs.")] = None,
    out: Annotated[Path | None, typer.Option(help="Append each result as a line of JSON.")] = None,
) -> None:
    """Train on each text with the settings that its size gives."""
    print("| text | seed | FLOPs | best at | model | counted (order) | bzip2 |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for text in texts:
        for seed in range(1, seeds + 1):
            row = measure(text, seed, sets or [])
            print(
                "| {text} | {seed} | {flops:.3g} | {best_step:,} of {steps:,} "
                "| {bits_per_byte:.3f} | {counted:.3f} ({order}) | {bzip2:.3f} |".format(**row),
                flush=True,
            )
            if out is not None:
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    typer.run(main)
