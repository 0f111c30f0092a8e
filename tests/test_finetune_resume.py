"""Every method of fine-tuning, stopped after each step and gone on with: the same bits.

So are rollouts that are killed among the answers of a step.
"""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import training_runs as runs
from fine_tuning_runs import METHODS, STEPS, settled

from bptool.training.verify_resume import verify_resume


@pytest.fixture(scope="module")
def base(tmp_path_factory: Any) -> Path:
    return runs.write_finetuning(tmp_path_factory.mktemp("resume"))


@pytest.mark.parametrize("method", METHODS)
def test_stopped_after_each_step_and_resumed(
    method: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.make_quick(monkeypatch, tmp_path / "cache")
    config = settled(base, method, tmp_path / "run")
    assert max(config.model.config.dropout_sites()) > 0
    stops = [*((step,) for step in range(1, STEPS)), tuple(range(1, STEPS))]
    for found in verify_resume(config, STEPS, stops):
        assert found.differences == [], found.stops


KILLING = """import os, signal

rewarded = 0

def reward(prompt, answer):
    global rewarded
    rewarded += 1
    if rewarded == int(os.environ.get("DIE_AT", "0")):
        os.kill(os.getpid(), signal.SIGKILL)
    return answer.count('a') / max(len(answer), 1)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("method", ["ppo", "grpo"])
def test_killed_among_the_answers_of_a_step(
    method: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = tmp_path / "rules.py"
    rules.write_text(KILLING, encoding="utf-8")
    answers = 8  # of a step
    shape = ("--answers", "2") if method == "grpo" else ("--set", "rollouts.prompts=8")
    asked = ("--prompts", str(base / "prompts.txt"), "--reward", str(rules), *shape)
    of_steps = ("--steps", str(STEPS), "--set", "training.checkpoint_interval=1")
    settings = ("--max-tokens", "6", "--set", "model.dropout=0.1", *of_steps, "--json")
    if method == "grpo":
        settings += ("--set", "rollouts.prompts=4")

    def run(*arguments: str) -> tuple[int, list[dict[str, Any]], str]:
        process = runs.process(*arguments)
        output, errors = process.communicate(timeout=300)
        return process.returncode, [json.loads(line) for line in output.splitlines()], errors

    start = ("finetune", method, str(base / "base"), *asked, *settings, "--out")
    code, _, errors = run(*start, str(tmp_path / "unbroken"))
    assert code == 0, errors
    # the first step's answers, and those of the first evaluation, may come before
    die_at = random.Random().randint(4 * answers, 6 * answers)
    monkeypatch.setenv("DIE_AT", str(die_at))
    code, events, errors = run(*start, str(tmp_path / "killed"))
    assert code == -signal.SIGKILL, (die_at, errors)
    assert 1 <= sum(event["event"] == "step_done" for event in events) < STEPS, die_at
    monkeypatch.delenv("DIE_AT")
    resume = ("train", str(tmp_path / "killed"), "--resume", "--reward", str(rules), "--json")
    code, _, errors = run(*resume)
    assert code == 0, (die_at, errors)
    assert runs.left_behind(tmp_path / "killed") == runs.left_behind(tmp_path / "unbroken"), die_at
