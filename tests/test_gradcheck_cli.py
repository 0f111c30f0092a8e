"""``bptool gradcheck``: tables, JSON and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bptool.cli.main import main
from bptool.gradient_check import training as gradcheck_training
from bptool.gradient_check.model import ModelFunction

CONFIG = """
model: {name: mlp, window: 3, n_embd: 4, n_hidden: 8, n_layer: 2, context: 6, dropout: 0.2,
        activation: relu}
data: {text: text.txt}
training: {steps: 1, batch_size: 6, micro_batch_size: 3, workers: 2}
regularizers: [{name: l2, strength: 0.01}]
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("BPTOOL_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("the cat saw the dog on a mat. " * 20, encoding="utf-8")
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return str(path)


def test_a_right_model_passes_with_a_line_for_each_tensor(config, capsys):
    assert main(["gradcheck", config]) == 0
    out = capsys.readouterr().out
    for name in ("embedding.weight", "hidden.0.weight", "output.bias"):
        assert name in out
    assert "All 7 gradients agree" in out
    assert "training's own gradient is within" in out
    assert "relu of layer" in out
    assert "WRONG" not in out


def test_all_that_training_drops_and_adds_is_in_the_check(config, capsys):
    gpt2 = (
        "model={name: gpt2, n_layer: 2, n_head: 2, n_embd: 8, context: 6, stochastic_depth: 0.5, "
    )
    gpt2 += "dropout: {embedding: 0.1, attention: 0.2, residual: 0.1, hidden: 0.3}}"
    others = (
        *("training.label_smoothing=0.1", "training.z_loss=0.01", "training.clip_adaptive=0.01"),
        "regularizers=[l1, gradient-noise, max-norm]",
        *("averaging=ema", "training.early_stopping={}"),
    )
    sets = [part for setting in (gpt2, *others) for part in ("--set", setting)]
    assert main(["gradcheck", config, "--json", *sets]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["failures"] == []
    assert len(found["model"]["tensors"]) == 28
    assert len(found["training"]) == 3


def test_json_holds_every_number(config, capsys):
    assert main(["gradcheck", config, "--json", "--set", "model.n_layer=1", "--seed", "3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    assert found["failures"] == []
    assert found["n_workers"] == 2
    assert [t["name"] for t in found["model"]["tensors"]] == [
        "embedding.weight",
        "input.weight",
        "input.bias",
        "output.weight",
        "output.bias",
    ]
    first = found["model"]["tensors"][0]
    assert first["taylor"]["slope"] >= 1.9
    assert first["worst"]["ratio"] <= 1
    assert [path["name"] for path in found["training"]] == [
        "the checked batch, split batch",
        "the checked batch, split inside",
        "a training batch",
    ]


@pytest.mark.parametrize(("objective", "n_tensors"), [("dpo", 28), ("ppo", 30)])
def test_an_objective_is_checked_through_the_model(config, capsys, objective, n_tensors):
    gpt2 = "model={name: gpt2, n_layer: 2, n_head: 2, n_embd: 8, context: 6, dropout: 0.1}"
    assert main(["gradcheck", config, "--objective", objective, "--json", "--set", gpt2]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["failures"] == []
    assert found["model"]["name"] == f"{objective} through gpt2"
    assert len(found["model"]["tensors"]) == n_tensors
    assert [path["name"] for path in found["training"]] == [
        "the checked rows, split batch",
        "the checked rows, split inside",
    ]


@pytest.mark.parametrize("objective", ["dpo", "ipo", "kto", "reward", "ppo", "grpo"])
def test_an_objective_needs_no_configuration(tmp_path, objective):
    command = [sys.executable, "-m", "bptool", "gradcheck", "--objective", objective, "--json"]
    environment = {**os.environ, "BPTOOL_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["model"]["name"] == f"{objective} through gpt2"
    assert found["failures"] == []
    assert len(found["training"]) == 2


def test_an_objective_that_cannot_be_checked_is_one_line_and_exit_code_2(config, capsys):
    assert main(["gradcheck", config, "--objective", "dpo"]) == 2
    assert "model 'mlp' gives its loss only" in capsys.readouterr().err
    assert main(["gradcheck", config, "--objective", "dbo"]) == 2
    assert "did you mean 'dpo'" in capsys.readouterr().err


def test_training_that_differs_is_reported_with_exit_code_1(config, capsys, monkeypatch):
    original = gradcheck_training.gradient_of

    def halved(step, function):
        loss, gradient = original(step, function)
        return loss, gradient * 0.5

    monkeypatch.setattr(gradcheck_training, "gradient_of", halved)
    assert main(["gradcheck", config]) == 1
    out = capsys.readouterr().out
    assert "WRONG" in out
    assert "the training gradient is off by 0.5" in out
    assert "more (--json gives all)" in out


def test_a_relu_input_at_its_kink_leaves_the_training_batch_out_and_says_so(
    config, capsys, monkeypatch
):
    original = ModelFunction.kink_margin
    monkeypatch.setattr(
        ModelFunction,
        "kink_margin",
        lambda self: original(self) if len(self.tokens) == 3 else 0.0,
    )
    assert main(["gradcheck", config]) == 0
    assert "Not compared on a training batch" in capsys.readouterr().out


def test_operations_alone_need_no_configuration(capsys):
    assert main(["gradcheck"]) == 0
    out = capsys.readouterr().out
    assert "attention with dropout" in out
    assert "regularizer l1" in out
    assert main(["gradcheck", "--ops", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] is None
    assert len(found["operations"]) > 15


def test_a_configuration_that_is_wrong_is_one_line_and_exit_code_2(config, capsys):
    assert main(["gradcheck", config, "--set", "model.n_hiden=3"]) == 2
    assert "n_hidden" in capsys.readouterr().err
    assert main(["gradcheck", "nowhere.yaml"]) == 2
    assert "nowhere.yaml" in capsys.readouterr().err
