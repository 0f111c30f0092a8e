"""``bptool verify-resume`` and ``bptool diff``: that they find what differs, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import training_runs as runs

from bptool.cli.main import main
from bptool.errors import RunError
from bptool.training import restore
from bptool.training.run_difference import compare_runs
from bptool.training.seal import write_sealed

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs.make_quick(monkeypatch, tmp_path / "cache")


@pytest.fixture
def config(tmp_path: Path) -> str:
    values = runs.settings(runs.write_text(tmp_path), runs.GPT2, steps=50, eval_interval=25)
    return str(runs.write_config(tmp_path, values))


def test_a_resume_is_proved_to_be_exact(config: str, tmp_path: Path, capsys: Captured) -> None:
    before = runs.snapshot(tmp_path)
    assert main(["verify-resume", config, "--steps", "6"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "stopped after step 2: every bit is the same"
    assert lines[-2] == "stopped after step 1, 2, 3, 4, 5: every bit is the same"
    assert lines[-1] == "6 steps, 4 ways to stop: a resume changes nothing"
    assert {k: v for k, v in runs.snapshot(tmp_path).items() if not k.startswith("cache")} == before


@pytest.mark.parametrize(
    ("forgotten", "kinds"), [("load_optimizer", {"tensor", "metrics"}), ("n_losses", {"metrics"})]
)
def test_what_a_resume_forgets_is_found(
    forgotten: str,
    kinds: set[str],
    config: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    if forgotten == "load_optimizer":
        monkeypatch.setattr(restore, "load_optimizer", lambda *arguments: None)
    else:
        real = restore.Progress.from_state

        def forget(state: dict[str, Any], place: object) -> Any:
            return real(state | {"n_losses": 1}, place)

        monkeypatch.setattr(restore.Progress, "from_state", forget)
    arguments = ["verify-resume", config, "--steps", "6", "--stop", "2", "--json"]
    assert main(arguments) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["same"] is False
    differences = found["results"][0]["differences"]
    assert kinds <= {one["kind"] for one in differences}
    if forgotten == "load_optimizer":
        step = next(one for one in differences if one["kind"] == "metrics")
        assert step["what"] == "evaluation of step 3: val_loss"  # after its update
    else:
        assert differences[0]["what"] == "evaluation of step 3: train_loss"


@pytest.mark.parametrize(
    "arguments", [["--steps", "1"], ["--stop", "12"], ["--stop", "0"], ["--set", "model.x=1"]]
)
def test_what_cannot_be_verified_is_refused(
    arguments: list[str], config: str, capsys: Captured
) -> None:
    assert main(["verify-resume", config, *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_two_runs_are_told_apart(tmp_path: Path, capsys: Captured) -> None:
    values = runs.settings(runs.write_text(tmp_path), runs.GPT2)
    runs.train(runs.config_of(values), tmp_path / "one")
    runs.train(runs.config_of(values, ["training.data_seed=9"]), tmp_path / "other")
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    one, other, copy = (str(tmp_path / name) for name in ("one", "other", "copy"))
    assert main(["diff", one, copy]) == 0
    assert capsys.readouterr().out == "no difference, timings aside\n"
    assert main(["diff", one, other, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["differences"]
    first = found[0]
    assert (first["kind"], first["what"]) == ("setting", "training.data_seed")
    assert (first["left"], first["right"], first["explains"]) == ("3", "9", True)
    whats = [one["what"] for one in found]
    assert "step of step 1: loss" in whats
    assert any(what.startswith("weights.safetensors: h.0.attn.c_attn.") for what in whats)
    assert main(["diff", one, other]) == 1
    shown = capsys.readouterr().out
    assert "setting*" in shown
    assert "decides the bits" in shown
    assert main(["diff", one, str(tmp_path)]) == 2


def test_a_manifest_that_differs_explains_itself(tmp_path: Path) -> None:
    values = runs.settings(runs.write_text(tmp_path), runs.GPT2, steps=3)
    runs.train(runs.config_of(values), tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    path = tmp_path / "two" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["versions"]["numba"], manifest["versions"]["python"] = "1", "2"
    manifest["data"]["text_sha256"] = "0"
    del manifest["seal"]
    write_sealed(path, manifest)
    found = {one.what: one.explains for one in compare_runs(tmp_path / "one", tmp_path / "two")}
    assert found == {
        "data.text_sha256": True,
        "versions.numba": True,
        "versions.python": False,
    }


@pytest.mark.parametrize("table", [None, ["weights.safetensors"], {"../../outside": "0"}])
def test_a_strangers_checkpoint_names_no_other_files(table: Any, tmp_path: Path) -> None:
    values = runs.settings(runs.write_text(tmp_path), runs.GPT2, steps=3)
    runs.train(runs.config_of(values), tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    (path,) = (tmp_path / "two").glob("checkpoints/step-*3/state.json")
    state = {k: v for k, v in json.loads(path.read_bytes()).items() if k != "seal"}
    write_sealed(path, {**state, "sha256": table})
    with pytest.raises(RunError, match="no table of its files is in its state"):
        compare_runs(tmp_path / "one", tmp_path / "two")


def test_a_resume_says_what_a_change_means(config: str, tmp_path: Path, capsys: Captured) -> None:
    run = str(tmp_path / "run")
    assert main(["train", config, "--out", run, "--quiet", "--set", "training.steps=3"]) == 0
    capsys.readouterr()
    sets = ["--set", "training.steps=4", "--set", "training.keep_last=5"]
    assert main(["train", run, "--resume", *sets]) == 0
    shown = capsys.readouterr().out
    assert "training.keep_last is 5 from here on, was 2\n" in shown
    assert "training.steps is 4 from here on, was 3; the bits will not be those" in shown
    sets = ["--set", "training.seed=4", "--set", "model.n_layer=3"]
    assert main(["train", run, "--resume", *sets]) == 2
    error = capsys.readouterr().err
    assert "(and 1 more); that would make it another run" in error
    assert "docs/config.md says which settings may change at a resume" in error
