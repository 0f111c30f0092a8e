"""What a run on a text says at its end: counting beside the model, and whether it still falls."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = [
    f"--set={setting}"
    for setting in (
        "model.n_layer=1", "model.n_head=2", "model.n_embd=32", "model.context=32",
        "training.workers=1", "sample.max_tokens=0",
    )
]  # fmt: skip


def train(cwd: Path, *arguments: str) -> str:
    run = subprocess.run(
        [sys.executable, "-m", "bptool", "train", *arguments],
        cwd=cwd, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout


def line(output: str, label: str) -> str | None:
    found = [x.removeprefix(label + ": ") for x in output.splitlines() if x.startswith(label + ":")]
    return found[0] if found else None


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of letters in a random order: counting knows all that there is to know."""
    folder = tmp_path_factory.mktemp("noise")
    draw = random.Random(1)
    text = "".join(draw.choice(("ab", "cd", "ef", "gh")) for _ in range(6000))
    (folder / "noise.txt").write_text(text)
    return folder


def test_a_short_run_is_no_better_than_counting_and_still_falls(noise: Path) -> None:
    output = train(noise, "noise.txt", "--out", "short", *SMALL, "--set", "training.steps=20")
    counting = line(output, "against counting")
    assert counting is not None
    both = r"no better than a counted model of order \d \(1\.0\d\d\) and bzip2 \(1\.1\d\d\)\."
    assert re.search(both, counting), counting
    falling = line(output, "still falling")
    assert falling is not None
    assert falling.endswith("bptool train short --resume --set training.steps=40")
    train(noise, "short", "--resume", "--set", "training.steps=40")  # the command that was printed


def test_a_run_that_has_settled_says_so_by_silence(noise: Path) -> None:
    steps = ("--set", "training.steps=400", "--set", "model.dropout=0")
    output = train(noise, "noise.txt", "--out", "long", *SMALL, *steps)
    counting = line(output, "against counting")
    assert counting is not None
    assert "better than bzip2" in counting
    assert line(output, "still falling") is None


def test_json_has_both_figures_at_the_end(noise: Path) -> None:
    output = train(noise, "noise.txt", "--out", "json", "--json", *SMALL, "--set=training.steps=20")
    end = json.loads(output.splitlines()[-1])
    assert end["event"] == "training_finished"
    assert 1 <= end["counted"]["order"] <= 8
    assert 0.95 < end["counted"]["bits_per_byte"] < 1.05 < end["counted"]["bzip2_bits_per_byte"]


def test_an_interrupted_run_waits_for_no_counting(noise: Path) -> None:
    run = subprocess.run(
        [
            sys.executable, "-m", "bptool", "train", "noise.txt", "--out", "stopped", "--json",
            *SMALL, "--set=training.steps=100000", "--time-limit", "1s",
        ],
        cwd=noise, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert run.returncode == 124, run.stderr
    end = json.loads(run.stdout.splitlines()[-1])
    assert end["counted"] is None
