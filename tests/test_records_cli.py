"""Records on the command line: judgements as they become text, and broken records left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import training_runs as runs

from bptool.cli.main import main

Shown = pytest.CaptureFixture[str]


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(x) + "\n" for x in records), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained run ``base``, and ``sft``, which answers."""
    folder = runs.write_finetuning(tmp_path_factory.mktemp("records"))
    with pytest.MonkeyPatch.context() as patch:
        runs.make_quick(patch, folder / "cache")
        tune = ["finetune", "sft", str(folder / "base"), "--data", str(folder / "records.jsonl")]
        assert main([*tune, "--epochs", "1", "--out", str(folder / "sft"), "--quiet"]) == 0
    return folder


def test_judgements_are_shown_as_the_text_that_they_become(tmp_path: Path, capsys: Shown) -> None:
    path = lines(
        tmp_path / "p.jsonl",
        {"prompt": "Who?", "chosen": "Ann.", "rejected": "Bob"},
        {"prompt": "x", "completion": "y", "label": False},
        {"prompt": "x", "chosen": 3},
    )
    assert main(["data", "inspect", str(path), "--as", "preference", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["pairs of answers"], found["judged answers"]) == (1, 1)
    assert found["records that are broken"] == 1
    head = "<|user|>Who?<|end|><|assistant|>"
    assert [text for _, text in found["samples"]] == [
        f"{head}[[Ann.<|end|>]]",
        f"{head}[[Bob<|end|>]]",
        "<|user|>x<|end|><|assistant|>[[y<|end|>]]",
    ]
    assert found["samples"][2][0].endswith(":2, bad")
    assert main(["data", "inspect", str(path), "--as", "preference", "--form", "text"]) == 2


def test_eval_is_told_the_form_and_may_leave_records_out(folder: Path, capsys: Shown) -> None:
    both = {"prompt": "ann", "completion": "see", "text": "ann sees"}
    path = lines(folder / "mixed.jsonl", both, {"prompt": "ann", "completion": "see"}, {"a": 1})
    command = ["eval", str(folder / "sft"), "--data", str(path), "--json"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "--skip-bad" in error
    assert "--form prompt" in error
    assert main([*command, "--form", "prompt", "--skip-bad"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "1 record was left out" in found["left_out"]
    assert main(["eval", str(folder / "sft"), "--skip-bad"]) == 2
    assert "name some with --data" in capsys.readouterr().err


def test_pretraining_leaves_broken_records_out_where_it_is_told_to(
    tmp_path: Path, capsys: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.make_quick(monkeypatch, tmp_path / "cache")
    texts = [{"text": f"the cat sees {n} dogs. " * 8} for n in range(30)]
    path = lines(tmp_path / "t.jsonl", *texts[:20], {"other": 1}, *texts[20:])
    values = runs.settings(path, runs.MLP, steps=2)
    command = ["train", str(runs.write_config(tmp_path, values)), "--out", str(tmp_path / "run")]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "t.jsonl:21: no field 'text'" in error
    assert "leave them out with --set data.errors=skip" in error
    assert main([*command, "--set", "data.errors=skip"]) == 0
    assert "1 record was left out: 1 without the field 'text'" in capsys.readouterr().out
