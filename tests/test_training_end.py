"""What a run on a text says at its end: counting beside the model, and whether it still falls."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bptool.cli.progress import TrainingProgress
from bptool.cli.summary import against_counting
from bptool.data.counted import Counted
from bptool.training.events import Evaluated, TrainingFinished

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


@pytest.mark.parametrize(
    ("counted", "bzip2", "is_whole", "said"),
    [
        (2.4, 2.3, True, "better than a counted model of order 4 (2.400) and bzip2 (2.300)."),
        (2.1, 2.0, True, "no better than a counted model of order 4 (2.100) and bzip2 (2.000)."),
        (2.1, 2.3, True, "better than bzip2 (2.300), but no better than a counted model of order 4 "
         "(2.100)."),
        (2.4, 2.0, False, "better than a counted model of order 4 of the last 4.19 M bytes "
         "(2.400), but no better than bzip2 (2.000)."),
    ],
)  # fmt: skip
def test_the_sentence_says_which_is_better(
    counted: float, bzip2: float, is_whole: bool, said: str
) -> None:
    progress = TrainingProgress()
    progress.observe(Evaluated(10, 1.4, 1.5, 2.2, 1000, 0.1, True, False))
    progress.observe(Evaluated(20, 1.3, 1.6, 2.3467, 1000, 0.1, False, False))
    found = Counted(4, counted, 1 << 22, is_whole, bzip2)
    progress.observe(TrainingFinished(20, 1.0, 10, 1.5, False, "runs/a", counted=found))
    assert against_counting(progress) == f"The model needs 2.200 bits per byte, {said}"


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
