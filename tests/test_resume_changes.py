"""What may change at a resume: said, kept in the run, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from bptool.cli.main import main
from bptool.config.load import resolve
from bptool.config.resume import mark_of
from bptool.config.schema import RunConfig
from bptool.config.section import AtResume
from bptool.errors import RunError
from bptool.training.events import Notice
from bptool.training.run_folder import RunFolder
from bptool.training.run_seal import read_manifest
from tests import training_runs as runs

NO_WEIGHT, ROUNDING, CONTENT = AtResume.NO_WEIGHT, AtResume.ROUNDING, AtResume.CONTENT
MARKS: dict[str, AtResume | None] = {
    "format_version": None,
    "model": None,
    "data.text": CONTENT,
    "data.field": CONTENT,
    "data.encoding": CONTENT,
    "data.errors": CONTENT,
    "data.tokenizer": None,
    "data.split.by": None,
    "data.split.validation_fraction": None,
    "data.split.separator": None,
    "data.split.seed": None,
    "data.sampling": None,
    "data.records.validation": CONTENT,
    "data.records.skip_bad": CONTENT,
    "data.records.form": None,
    "data.records.judged_fraction": None,
    "training.steps": AtResume.LENGTH,
    "training.batch_size": None,
    "training.micro_batch_size": ROUNDING,
    "training.seed": None,
    "training.data_seed": None,
    "training.workers": ROUNDING,
    "training.split": ROUNDING,
    "training.engine": ROUNDING,
    "training.clip_norm": None,
    "training.clip_value": None,
    "training.clip_adaptive": None,
    "training.label_smoothing": None,
    "training.z_loss": None,
    "training.eval_interval": NO_WEIGHT,
    "training.log_interval": NO_WEIGHT,
    "training.checkpoint_interval": NO_WEIGHT,
    "training.keep_last": NO_WEIGHT,
    "training.keep_every": NO_WEIGHT,
    "training.eval_tokens": NO_WEIGHT,
    "training.max_skipped": NO_WEIGHT,
    "training.spikes.then": None,
    "training.spikes.standard_deviations": None,
    "training.spikes.over": None,
    "training.spikes.rate_factor": None,
    "training.spikes.max_rollbacks": NO_WEIGHT,
    "training.early_stopping.patience": NO_WEIGHT,
    "training.early_stopping.standard_errors": NO_WEIGHT,
    "training.early_stopping.min_improvement": NO_WEIGHT,
    "optimizer": None,
    "schedule": None,
    "regularizers": None,
    "averaging": None,
    "start.run": CONTENT,
    "start.checkpoint": CONTENT,
    "lora.rank": None,
    "lora.alpha": None,
    "lora.targets": None,
    "lora.embeddings": None,
    "chat.template": None,
    "objective": None,
    "rollouts.reward": CONTENT,
    "rollouts.mix_text": CONTENT,
    "sample.prompt": NO_WEIGHT,
    "sample.max_tokens": NO_WEIGHT,
    "sample.temperature": NO_WEIGHT,
    "sample.top_k": NO_WEIGHT,
}
"""Of every setting; those of rollouts that are not named may not change."""


def _settings(section: type[BaseModel], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, field in section.model_fields.items():
        options = [field.annotation, *get_args(field.annotation)]
        inner = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        path = (*above, name)
        found += _settings(inner[0], path) if inner else [path]
    return found


def test_every_setting_has_been_decided() -> None:
    """A new setting goes into the table, and so is thought about."""
    found = {".".join(path): mark_of(path) for path in _settings(RunConfig)}
    others = {k for k in found if k.startswith("rollouts.") and k not in MARKS}
    assert all(found.pop(key) is None for key in others)
    assert found == MARKS


def _values(folder: Path, **training: Any) -> dict[str, Any]:
    return runs.settings(runs.write_text(folder), runs.GPT2, workers=1, **training)


def _notices(recorder: runs.Recorder) -> list[str]:
    return [event.text for event in recorder.events if isinstance(event, Notice)]


def test_an_extended_run_that_is_stopped_goes_on_to_its_new_end(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    runs.train(runs.config_of(_values(tmp_path, steps=4)), run.path)
    first = runs.resume(run.path, ["training.steps=10", "training.keep_last=3"], stop_at=6)
    manifest = read_manifest(run)
    assert manifest["changes"] == [
        {
            "after_step": 4,
            "training.steps": {"was": "4", "now": "10"},
            "training.keep_last": {"was": "2", "now": "3"},
        }
    ]
    assert any("training.steps is 10 from here on, was 4" in text for text in _notices(first))
    assert _notices(runs.resume(run.path)) == []  # it is the run's own by now
    assert runs.measured(run.path)[-1]["step"] == 10


def test_what_is_refused_leaves_the_settings_alone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    runs.train(runs.config_of(_values(tmp_path, steps=4)), run)
    before = runs.snapshot(run)
    with pytest.raises(RunError, match=r"has done 4 steps, and training\.steps=3 is fewer"):
        runs.resume(run, ["training.steps=3"])
    assert runs.snapshot(run) == before


def test_the_learning_rate_is_said_where_it_jumps_and_only_there(tmp_path: Path) -> None:
    run = tmp_path / "run"
    runs.train(runs.config_of(_values(tmp_path, steps=6)), run)
    said = [text for text in _notices(runs.resume(run, ["training.steps=12"])) if "rate" in text]
    rates = {r["step"]: r["learning_rate"] for r in runs.measured(run) if r["kind"] == "step"}
    assert rates[7] > 1.5 * rates[6]
    assert said == [
        f"the learning rate was {rates[6]:.2e} at step 6 and is {rates[7]:.2e} at step 7, since "
        "the cosine schedule now ends at step 12"
    ]
    level = _values(tmp_path, steps=6) | {"schedule": "constant"}
    runs.train(runs.config_of(level), tmp_path / "level")
    notices = _notices(runs.resume(tmp_path / "level", ["training.steps=12"]))
    assert len(notices) == 1
    assert "training.steps is 12" in notices[0]


def test_rows_in_memory_may_change_and_are_said_once(tmp_path: Path) -> None:
    run = tmp_path / "run"
    runs.train(runs.config_of(_values(tmp_path, steps=12)), run, stop_at=3)
    said = _notices(runs.resume(run, ["training.micro_batch_size=2"], stop_at=5))
    assert any("training.micro_batch_size is 2 from here on, was null" in text for text in said)
    assert _notices(runs.resume(run)) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("optimizer.name=sgd", "optimizer adamw, not sgd"),
        ("schedule=constant", "schedule cosine, not constant"),
        ("data.tokenizer=byte", "data.tokenizer char, not byte"),
        ("model.n_layer=1", "model.n_layer 2, not 1"),
        ("training.spikes.then=skip", "training.spikes null, not {"),
    ],
)
def test_another_part_is_refused_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, named: str
) -> None:
    run = tmp_path / "run"
    runs.train(runs.config_of(_values(tmp_path, steps=2)), run)
    settings = ["--set", change]
    if change.startswith("optimizer"):
        settings += ["--set", "optimizer.learning_rate=0.1"]
    assert main(["train", str(run), "--resume", *settings]) == 2
    error = capsys.readouterr().err
    assert f"was trained with {named}" in error
    assert "unset" not in error


def test_a_text_that_was_moved_is_found_or_named_and_another_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(tmp_path / "runs" / "one")
    runs.train(runs.config_of(_values(tmp_path)), run.path, stop_at=2)
    text, moved = tmp_path / "text.txt", tmp_path / "runs" / "tale.md"
    other = tmp_path / "runs" / "other" / "text.txt"
    other.parent.mkdir()
    other.write_text("another text of the same name\n" * 40, encoding="utf-8")
    text.rename(moved)
    before = runs.snapshot(run.path)
    assert main(["train", str(run.path), "--resume"]) == 2
    assert "where it is now by --text PATH" in capsys.readouterr().err
    assert main(["train", str(run.path), "--resume", "--text", str(other)]) == 2
    assert "not the one that" in capsys.readouterr().err
    assert runs.snapshot(run.path) == before
    again = ["train", str(run.path), "--resume", "--quiet", "--set", "training.steps=4"]
    assert main([*again, "--text", str(moved)]) == 0
    assert resolve(run.config).config.data.text == [str(moved)]
    (tmp_path / "runs" / "texts").mkdir()
    kept = tmp_path / "runs" / "texts" / "tale.md"
    moved.rename(kept)
    moved.with_name("decoy").mkdir()
    (moved.with_name("decoy") / "tale.md").write_text("no\n", encoding="utf-8")
    assert main([*again[:-1], "training.steps=6"]) == 0  # found beside the run, by its hash
    assert resolve(run.config).config.data.text == [str(kept)]
    assert runs.measured(run.path)[-1]["step"] == 6


def test_records_that_were_moved_are_found(tmp_path: Path, monkeypatch: Any) -> None:
    runs.write_finetuning(tmp_path)
    runs.make_quick(monkeypatch, tmp_path / "cache")
    run, data = tmp_path / "tuned", tmp_path / "records.jsonl"
    made = ["finetune", "sft", str(tmp_path / "base"), "--data", str(data), "--out", str(run)]
    assert main([*made, "--quiet", "--set", "training.steps=2"]) == 0
    (tmp_path / "data").mkdir()
    data.rename(tmp_path / "data" / "records.jsonl")
    (tmp_path / "base").rename(tmp_path / "data" / "base")
    again = ["train", str(run), "--resume", "--quiet", "--set", "training.steps=3"]
    assert main(again) == 0
    config = resolve(RunFolder(run).config).config
    assert config.data.text == [str(tmp_path / "data" / "records.jsonl")]
    assert config.start is not None
    assert config.start.run == str(tmp_path / "data" / "base")


def test_a_text_named_with_resume_does_not_undo_other_settings(tmp_path: Path) -> None:
    path = runs.write_config(tmp_path, _values(tmp_path, steps=3))
    run = str(tmp_path / "run")
    assert main(["train", str(path), "--out", run, "--quiet"]) == 0
    text = str(tmp_path / "text.txt")
    assert main(["train", text, "--out", run, "--resume", "--quiet"]) == 0
    assert json.loads(RunFolder(Path(run)).manifest.read_text("utf-8")).get("changes") is None
