"""The library: its public names, what its functions return and raise, and that it stays quiet."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import training_runs as runs
from test_docs import ROOT, blocks

import bptool
from bptool.training.events import StepDone

PUBLIC = {
    *("BptoolError", "Conversation", "Run"),
    *("compare_optimizers", "finetune", "gradcheck", "load", "resume", "train"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run, and what to fine-tune it on."""
    return runs.write_finetuning(tmp_path_factory.mktemp("api"))


def test_the_public_names() -> None:
    assert set(bptool.__all__) == PUBLIC
    for name in PUBLIC:
        part = getattr(bptool, name)
        assert part.__doc__
        if inspect.isfunction(part):
            for parameter in inspect.signature(part).parameters.values():
                assert parameter.annotation is not parameter.empty, f"{name}: {parameter}"


def test_importing_is_light_and_silent() -> None:
    script = (
        "import signal, sys; before = signal.getsignal(signal.SIGINT); import bptool\n"
        "assert signal.getsignal(signal.SIGINT) is before\n"
        "heavy = {'numba', 'numpy', 'yaml', 'pydantic', 'typer', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_run_is_trained_opened_resumed_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    runs.make_quick(monkeypatch, tmp_path / "cache")
    config = runs.write_config(tmp_path, runs.settings(runs.write_text(tmp_path), runs.GPT2))
    steps: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    run = bptool.train(
        config,
        settings={"training.steps": 6, "optimizer.name": "lion"},
        out=tmp_path / "run",
        on_event=lambda event: steps.append(event.step) if isinstance(event, StepDone) else None,
    )
    assert steps == [1, 2, 3, 4, 5, 6]
    assert signal.getsignal(signal.SIGINT) is handler
    assert run.config["optimizer"]["name"] == "lion"
    assert run.evaluate().whole.loss < 4
    text = "the cat sees"
    logprobs = run.logprobs(text[:8])
    assert logprobs.shape == (7,)
    assert np.all(logprobs < 0)
    first, second = run.generate(text[:4], n=2, max_tokens=5, seed=3)
    assert [first, second] == bptool.load(tmp_path / "run").generate(
        text[:4], n=2, max_tokens=5, seed=3
    )
    weights = run.weights()
    assert weights["wte.weight"].shape[1] == 16 if "wte.weight" in weights else weights
    longer = bptool.resume(tmp_path / "run", settings={"training.steps": 8})
    assert bptool.load(longer.path, checkpoint="last").step == 8
    assert longer.metrics()[-1]["step"] == 8
    with pytest.raises(bptool.BptoolError, match="no chat template"):
        run.chat()
    assert capfd.readouterr() == ("", "")


def test_logprobs_are_the_loss(folder: Path) -> None:
    run = bptool.load(folder / "base")
    text = (folder / "text.txt").read_text(encoding="utf-8")[:49]
    (folder / "short.txt").write_text(text, encoding="utf-8")
    loss = run.evaluate(text=folder / "short.txt").whole.loss
    assert -run.logprobs(text).mean() == pytest.approx(loss, rel=1e-5)


def test_fine_tuning_leads_to_a_conversation(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.make_quick(monkeypatch, tmp_path / "cache")
    records = folder / "records.jsonl"
    sft = bptool.finetune(folder / "base", "sft", data=records, epochs=1, out=tmp_path / "sft")
    conversation = sft.chat()
    answer = conversation.say("ann", max_tokens=3)
    assert conversation.messages == [
        {"role": "user", "content": "ann"},
        {"role": "assistant", "content": answer},
    ]
    ppo = bptool.finetune(
        *(folder / "base", "ppo"), data=folder / "prompts.txt", reward=folder / "rules.py",
        steps=2, rollouts={"max_tokens": 4}, out=tmp_path / "ppo",
    )  # fmt: skip
    assert ppo.config["objective"]["name"] == "ppo"
    with pytest.raises(bptool.BptoolError, match=r"name it on this|--reward"):
        bptool.resume(ppo.path, settings={"training.steps": 3})
    pairs = folder / "pairs.jsonl"
    dpo = bptool.finetune(
        *(folder / "base", "dpo"), data=pairs, objective={"beta": 0.3}, out=tmp_path / "dpo"
    )
    assert dpo.config["objective"]["beta"] == 0.3


def test_what_is_wrong_is_raised_in_one_line(folder: Path, tmp_path: Path) -> None:
    for call in (
        lambda: bptool.load(tmp_path / "nothing"),
        lambda: bptool.train(tmp_path / "nothing.txt"),
        lambda: bptool.train(folder / "text.txt", settings={"training.stepz": 3}),
        lambda: bptool.finetune(folder / "base", "grpo", data=folder / "prompts.txt"),
        lambda: bptool.load(folder / "base").logprobs("a"),
    ):
        with pytest.raises(bptool.BptoolError) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_the_examples_of_the_page_run(tmp_path: Path) -> None:
    examples = blocks(ROOT / "docs" / "api.md", "python")
    assert len(examples) == 4
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BPTOOL_CACHE_DIR": str(tmp_path / "c")}
    for example in examples:
        done = subprocess.run(
            [sys.executable, "-c", example], cwd=tmp_path, env=environment, capture_output=True,
            text=True, encoding="utf-8", check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{example}\n{done.stderr}"
    assert json.loads((tmp_path / "runs/compare-config/report.json").read_text(encoding="utf-8"))
