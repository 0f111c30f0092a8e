"""What takes long: kills, fuzzing, the demos from a fresh clone, commands pasted from the docs.

``make test-long`` runs these, and the tests in a browser. Each is a process of its own.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_docs import ROOT, blocks

pytestmark = pytest.mark.long

PAGES = ("README.md", "docs/tutorial.md", "docs/fine-tuning.md", "docs/learning-rate.md")
INTERNET = ("data get", "dataset:", "runs/shakespeare", "shakespeare_char")
"""What needs a download, which these tests do without."""
SHORTER = {
    "train": ("--set", "training.steps=30"),
    "verify-resume": ("--set", "training.steps=30"),
    "lr-find": ("--steps", "90"),
    "compare-optimizers": ("--steps", "20", "--seeds", "2"),
    "ppo": ("--steps", "3"),
    "grpo": ("--steps", "3"),
    "feedback": ("--judge", "rules.py"),
}
"""Options that are added to a command so that it takes seconds, or needs no person."""
TYPED = {"chat": "One spring\n/quit\n", "generate": "One spring"}
"""What is typed into a command."""
STAND_INS = {
    "runs/one": "runs/quickstart",
    "runs/other": "runs/book",
    "runs/sft": "runs/quickstart-sft",
    "runs/dpo": "runs/quickstart-sft-dpo",
}
"""Runs that a page names without a command that makes them."""


def write_inputs(folder: Path) -> None:
    """Write every file that the pages name."""
    draw = random.Random(4)
    stories = (ROOT / "data" / "stories.txt").read_text(encoding="utf-8")[:150_000]
    for name in ("book.txt", "chapter-1.txt", "chapter-2.txt", "another.txt", "more.txt"):
        (folder / name).write_text(stories, encoding="utf-8")
    (folder / "stories.txt").write_text(stories, encoding="utf-8")
    (folder / "books").mkdir()
    (folder / "books" / "one.txt").write_text(stories, encoding="utf-8")
    (folder / "talks").mkdir()
    talks = "".join(json.dumps({"body": text}) + "\n" for text in stories.split("\n\n"))
    (folder / "talks" / "one.jsonl").write_text(talks, encoding="utf-8")
    subprocess.run(["gzip", str(folder / "talks" / "one.jsonl")], check=True)
    prompts = [text.split(".")[0] + "." for text in stories.split("\n\n")[:60]]
    for name in ("prompts.txt", "held_out.txt"):
        (folder / name).write_text("\n".join(prompts) + "\n", encoding="utf-8")
    with (folder / "chat.jsonl").open("w", encoding="utf-8") as file:
        for prompt in prompts:
            file.write(json.dumps({"prompt": prompt, "completion": "It was so."}) + "\n")
    with (folder / "prefs.jsonl").open("w", encoding="utf-8") as file:
        for prompt in prompts:
            worse = draw.choice(["No.", "It was not so at all.", "Never"])
            pair = {"prompt": prompt, "chosen": "It was so.", "rejected": worse}
            file.write(json.dumps(pair) + "\n")
    rules = "def reward(prompt, answer):\n    return answer.count('a') / max(len(answer), 1)\n"
    (folder / "rules.py").write_text(rules, encoding="utf-8")
    for page in (ROOT / "docs" / "plugins.md", ROOT / "README.md"):
        for program in blocks(page, "python"):
            if "sign-sgd" in program:
                (folder / "sign_sgd.py").write_text(program, encoding="utf-8")
    for program in blocks(ROOT / "docs" / "tutorial.md", "yaml"):
        (folder / "book.yaml").write_text(program, encoding="utf-8")
    for name in ("configs", "data"):
        shutil.copytree(ROOT / name, folder / name)


def pasted(page: str) -> Iterator[str]:
    """The whole ``bptool`` commands in the blocks of a page, in order."""
    for body in blocks(ROOT / page, ""):
        for line in body.replace("\\\n", " ").splitlines():
            command = line.removeprefix("$ ").rpartition("| ")[2].partition("  #")[0].strip()
            if command.startswith("bptool ") and not any(word in command for word in INTERNET):
                if "--serve" not in command:
                    yield command


def shortened(command: str) -> str:
    """The command with what makes it short."""
    more = []
    for name, options in SHORTER.items():
        starts_anew = name != "train" or ("--resume" not in command and "--plan" not in command)
        if f" {name} " in f"{command} " and starts_anew:
            more += options
    return f"{command} {' '.join(more)}"


@pytest.mark.parametrize("page", PAGES)
def test_commands_pasted_from_the_docs(page: str, tmp_path: Path) -> None:
    write_inputs(tmp_path)
    python = f'"{sys.executable}" -m bptool'
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    setting_up = [
        "bptool train configs/quickstart.yaml",
        "bptool finetune sft runs/quickstart --data chat.jsonl",
        "bptool finetune dpo runs/quickstart-sft --data prefs.jsonl",
        "bptool train book.txt --out runs/book",
    ]
    commands = list(pasted(page))
    assert len(commands) >= 2
    before = [command for command in setting_up if page != "docs/tutorial.md"]
    failures = []
    for command in [*before, *commands]:
        for name, run in STAND_INS.items():
            if name in command.split() and not (tmp_path / name).exists():
                shutil.copytree(tmp_path / run, tmp_path / name)
        line = shortened(command).replace("bptool", python, 1)
        typed = TYPED.get(command.split()[1], "")
        done = subprocess.run(
            line, shell=True, cwd=tmp_path, env=environment, input=typed, capture_output=True,
            text=True, encoding="utf-8", timeout=900, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            failures.append(f"{shortened(command)}: {done.returncode}: {done.stderr[-400:]}")
    assert not failures, "\n".join(failures)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of what is committed, and beside it an empty home."""
    folder = tmp_path_factory.mktemp("newcomer")
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder / "bptool")], check=True)
    (folder / "home").mkdir()
    return folder / "bptool"


@pytest.mark.parametrize("verb", ["demo", "demo-chat", "demo-rlhf"])
def test_the_demos_from_a_fresh_clone_and_an_empty_home(verb: str, clone: Path) -> None:
    names = ("PYTHONPATH", "VIRTUAL_ENV", "NUMBA_CACHE_DIR", "BPTOOL_ENGINE", "XDG_CACHE_HOME")
    environment = {k: v for k, v in os.environ.items() if k not in names}
    environment["HOME"] = str(clone.parent / "home")
    done = subprocess.run(
        ["make", verb], cwd=clone, env=environment, capture_output=True, text=True, check=False,
        encoding="utf-8", timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    left = subprocess.run(
        ["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True
    )
    assert left.stdout == ""


def run_module(*words: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, env={**os.environ, **environment},
        capture_output=True, text=True, encoding="utf-8", timeout=3000, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_runs_that_are_killed_end_with_the_same_bits() -> None:
    assert "every bit is the same" in run_module("benchmarks.reliability.kill", "40")


def test_fuzzing_finds_nothing(tmp_path: Path) -> None:
    run_module("benchmarks.reliability.fuzz", "0.3", FUZZ_FINDINGS=str(tmp_path / "findings"))
    findings = [path for path in (tmp_path / "findings").rglob("*") if path.is_file()]
    assert not findings
