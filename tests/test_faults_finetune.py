"""Whatever fails of what a fine-tuning run asks of the disk: one clear line or a run that goes on,
a last checkpoint that loads, and the bits of an unbroken run in the end."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import training_runs as runs
from faults import Faults, check_goes_on, chosen, ended_clearly

ANSWERED = ("--prompts-per-step", "4", "--max-tokens", "6", "--steps", "4")
METHODS = {
    "sft": ("sft", "--data", "records.jsonl"),
    "lora": ("sft", "--data", "records.jsonl", "--lora", "rank=2"),
    "dpo": ("dpo", "--data", "pairs.jsonl"),
    "reward": ("reward", "--data", "pairs.jsonl"),
    "ppo": ("ppo", "--prompts", "prompts.txt", "--reward", "rules.py", *ANSWERED),
    "grpo": ("grpo", "--prompts", "prompts.txt", "--reward", "rules.py", *ANSWERED),
}
SETTINGS = {
    "steps": 4,
    "eval_interval": 2,
    "checkpoint_interval": 2,
    "batch_size": 4,
    "eval_tokens": 96,
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_finetuning(tmp_path_factory.mktemp("inputs"), n_layer=1)


@pytest.fixture(autouse=True)
def _inside(monkeypatch: pytest.MonkeyPatch, inputs: Path, tmp_path: Path) -> None:
    runs.make_quick(monkeypatch, tmp_path / "cache")
    monkeypatch.chdir(inputs)


def begin(method: str, run: Path) -> list[str]:
    """The command of a run of four steps."""
    verb, *words = METHODS[method]
    sets = [f"--set=training.{key}={value}" for key, value in SETTINGS.items()]
    return ["finetune", verb, "base", *words, *sets, "--out", str(run), "--quiet"]


@pytest.mark.parametrize("method", METHODS)
def test_a_fault_at_any_call(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    none, run = Faults(), tmp_path / "run"
    assert none.run(begin(method, tmp_path / "unbroken")) == 0
    want = runs.left_behind(tmp_path / "unbroken")
    slow = Faults(seconds=0.002)
    assert slow.run(begin(method, tmp_path / "slow")) == 0
    assert runs.left_behind(tmp_path / "slow") == want
    assert slow.calls == none.calls
    assert len(none.calls) > 100
    for faults in chosen(none.calls):
        capsys.readouterr()
        exit_code = faults.run(begin(method, run))
        what = ended_clearly(exit_code, capsys.readouterr().err, faults)
        check_goes_on(begin(method, run), run, want, what)
        shutil.rmtree(run)
