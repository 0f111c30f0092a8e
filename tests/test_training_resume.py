"""A run that is stopped, killed or interrupted and resumed ends in the same bits as an unbroken
one."""

from __future__ import annotations

import json
import os
import random
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_runs as runs

from bptool.cli.main import main
from bptool.config.load import resolve
from bptool.errors import DataError, RunError
from bptool.training import begin, machine
from bptool.training.callback import State
from bptool.training.events import (
    Evaluated,
    Notice,
    Sampled,
    StepDone,
    TrainingFinished,
    TrainingStarted,
)
from bptool.training.metrics import MetricsFile, read_metrics
from bptool.training.run_folder import RunFolder
from bptool.training.samples import SamplesFile
from bptool.training.trained import open_run

SGD = {"name": "sgd", "learning_rate": 0.1}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "gpt2 in mid-epoch": (runs.GPT2, {}, {}),
    "accumulation": (runs.GPT2, {"micro_batch_size": 3}, {}),
    "full batch": (runs.GPT2, {"batch_size": "full", "micro_batch_size": 16}, {}),
    "batch of one": (runs.GPT2, {"batch_size": 1, "workers": "auto"}, {}),
    "two workers inside": (runs.GPT2, {"split": "inside", "micro_batch_size": 3}, {}),
    "random offsets": (runs.GPT2, {}, {"data": {"sampling": "random"}}),
    "mlp": (runs.MLP | {"dropout": 0.3}, {}, {}),
    "without optimizer state": (runs.MLP, {}, {"optimizer": SGD}),
    "other weights evaluated": (runs.GPT2, {}, {"optimizer": {"name": "schedule-free-adamw"}}),
    "a running product": (runs.MLP, {}, {"optimizer": {"name": "nadam"}}),
    "matrices and tables": (runs.GPT2, {}, {"optimizer": {"name": "muon"}}),
    "eigenbases": (
        runs.GPT2,
        {},
        {
            "optimizer": {
                "name": "soap",
                "precondition_frequency": 3,
                "groups": [{"match": "w?e.*"}],
            }
        },
    ),
    "penalty": (runs.MLP, {}, {"regularizers": [{"name": "l2", "strength": 0.01}]}),
    "all that is dropped, added and changed": (
        runs.GPT2 | {"dropout": {"residual": 0.1, "hidden": 0.2}, "stochastic_depth": 0.4},
        {"label_smoothing": 0.1, "z_loss": 0.01, "clip_norm": None, "clip_adaptive": 0.05},
        {
            "regularizers": [{"name": "gradient-noise"}, {"name": "max-norm", "norm": 0.5}],
            "averaging": {"name": "ema", "decay": 0.8},
        },
    ),
    "mean of the last": (
        runs.MLP,
        {"clip_norm": None, "clip_value": 0.01, "split": "inside"},
        {"averaging": {"name": "lawa", "count": 3, "interval": 2}},
    ),
    "average of other weights": (
        runs.GPT2,
        {"early_stopping": {"standard_errors": 0}},
        {"optimizer": {"name": "schedule-free-adamw"}, "averaging": "ema"},
    ),
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs.make_quick(monkeypatch, tmp_path / "cache")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("stop_at", [5, 7])
def test_stopped_and_resumed_equals_unbroken(case: Any, stop_at: int, tmp_path: Path) -> None:
    model, training, others = case
    values = runs.settings(runs.write_text(tmp_path), model, **training)
    for section, change in others.items():
        values[section] = change if section != "data" else values["data"] | change
    config = runs.config_of(values)
    unbroken, resumed = tmp_path / "unbroken", tmp_path / "resumed"
    runs.train(config, unbroken)
    first = runs.train(config, resumed, stop_at)
    finished = first.events[-1]
    assert isinstance(finished, TrainingFinished)
    assert (finished.step, finished.interrupted) == (stop_at, True)
    second = runs.resume(resumed)
    assert not any(isinstance(event, Notice) for event in second.events)
    steps = [event.step for event in second.events if isinstance(event, StepDone)]
    assert steps == list(range(stop_at + 1, 13))
    assert runs.left_behind(resumed) == runs.left_behind(unbroken)
    evaluations = [r["step"] for r in runs.measured(resumed) if r["kind"] == "evaluation"]
    assert evaluations == [5, 10, 12]


def test_the_stop_was_inside_an_epoch(tmp_path: Path) -> None:
    config = runs.config_of(runs.settings(runs.write_text(tmp_path), runs.GPT2))
    training = begin.start_run(config, RunFolder(tmp_path / "run"))
    training.pieces.close()
    batches = training.pieces.batches
    assert 7 * batches.n_sequences % batches.n_windows not in (0, batches.n_windows - 1)


def test_more_steps_go_on_where_fewer_ended(tmp_path: Path) -> None:
    values = runs.settings(runs.write_text(tmp_path), runs.GPT2) | {"schedule": "constant"}
    runs.train(runs.config_of(values), tmp_path / "twelve")
    runs.train(runs.config_of(values, ["training.steps=7"]), tmp_path / "seven")
    assert [r["step"] for r in runs.measured(tmp_path / "seven") if r["kind"] == "evaluation"] == [
        5,
        7,
    ]
    runs.resume(tmp_path / "seven", ["training.steps=12"])
    assert runs.measured(tmp_path / "seven") == runs.measured(tmp_path / "twelve")
    last = "checkpoints/step-00000012/weights.safetensors"
    assert (tmp_path / "seven" / last).read_bytes() == (tmp_path / "twelve" / last).read_bytes()


def test_stopping_before_the_first_step_and_losing_every_checkpoint(tmp_path: Path) -> None:
    config = runs.config_of(runs.settings(runs.write_text(tmp_path), runs.GPT2))
    runs.train(config, tmp_path / "unbroken")
    training = begin.start_run(config, RunFolder(tmp_path / "run"))
    training.request_stop()
    assert training.run() is True
    training.pieces.close()
    runs.resume(tmp_path / "run", stop_at=2)
    # as if the first checkpoint had never been reached
    (tmp_path / "run" / "checkpoints" / "index.json").unlink()
    runs.resume(tmp_path / "run")
    assert runs.left_behind(tmp_path / "run") == runs.left_behind(tmp_path / "unbroken")


def test_another_number_of_workers_is_said_to_change_the_bits(tmp_path: Path) -> None:
    config = runs.config_of(runs.settings(runs.write_text(tmp_path), runs.GPT2))
    runs.train(config, tmp_path / "run", stop_at=3)
    recorder = runs.resume(tmp_path / "run", ["training.workers=1"])
    notices = [event for event in recorder.events if isinstance(event, Notice)]
    assert [notice.text.partition(",")[0] for notice in notices] == [
        "training.workers is 1 from here on",
        "the bits will differ from an unbroken run: workers was 2",
    ]
    assert notices[1].level == "warning"


def test_workers_by_default_are_those_of_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = runs.settings(runs.write_text(tmp_path), runs.GPT2, workers="auto")
    monkeypatch.setattr("bptool.training.setup.usable_cores", lambda: 3)
    runs.train(runs.config_of(values), tmp_path / "run", stop_at=3)
    runs.train(runs.config_of(values), tmp_path / "unbroken")
    monkeypatch.setattr("bptool.training.setup.usable_cores", lambda: 1)
    recorder = runs.resume(tmp_path / "run")
    assert not any(isinstance(event, Notice) for event in recorder.events)
    assert runs.left_behind(tmp_path / "run") == runs.left_behind(tmp_path / "unbroken")


def test_an_engine_measured_anew_does_not_replace_the_one_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = runs.settings(runs.write_text(tmp_path), runs.MLP, steps=6, engine="auto")
    measured = iter(["tiled", "another"])
    monkeypatch.delenv(machine.ENGINE_VARIABLE, raising=False)
    monkeypatch.setattr(machine, "_fastest", lambda: machine._named(next(measured), "here"))
    runs.train(runs.config_of(values), tmp_path / "run", stop_at=2)
    again = runs.resume(tmp_path / "run")
    assert next(e.engine for e in again.events if isinstance(e, TrainingStarted)) == "tiled"
    assert not [e for e in again.events if isinstance(e, Notice)]
    assert next(measured) == "another"  # nothing was measured


def test_what_a_killed_process_left_half_written_goes_on_a_resume(tmp_path: Path) -> None:
    values = runs.settings(runs.write_text(tmp_path), runs.MLP, steps=4)
    runs.train(runs.config_of(values), tmp_path / "run", stop_at=2)
    run = RunFolder(tmp_path / "run")
    for place in (run.path, run.checkpoints):
        (place / ".writing-abc").write_text("half")
        (place / ".writing-step-00000003").mkdir()
        (place / ".writing-step-00000003" / "weights.safetensors").write_text("half")
    seen: list[str] = []
    training = begin.resume_run(resolve(run.config).config, run)
    seen += [path.name for path in run.path.rglob(".writing-*")]
    training.pieces.close()
    assert seen == []


def test_other_versions_are_named_one_by_one() -> None:
    saved = {"workers": 2, "versions": {"numba": "1", "python": "3"}, "machine": {"cores": 8}}
    now = {"workers": 2, "versions": {"numba": "2", "python": "4"}, "machine": {"cores": 2}}
    assert list(begin.differences(saved, now)) == ["versions.numba was 1, is 2"]


def test_another_text_is_refused(tmp_path: Path) -> None:
    text = runs.write_text(tmp_path)
    config = runs.config_of(runs.settings(text, runs.GPT2))
    runs.train(config, tmp_path / "run", stop_at=3)
    before = runs.snapshot(tmp_path / "run")
    text.write_text(text.read_text(encoding="utf-8") + " the end", encoding="utf-8")
    with pytest.raises(RunError, match="not the one that"):
        runs.resume(tmp_path / "run")
    text.unlink()
    with pytest.raises(DataError, match="no such file"):
        runs.resume(tmp_path / "run")
    assert runs.snapshot(tmp_path / "run") == before


def test_what_was_written_after_the_last_checkpoint_is_dropped(tmp_path: Path) -> None:
    config = runs.config_of(runs.settings(runs.write_text(tmp_path), runs.GPT2))
    runs.train(config, tmp_path / "unbroken")
    run = RunFolder(tmp_path / "run")
    runs.train(config, run.path, stop_at=7)
    with run.metrics.open("a", encoding="utf-8") as file:
        file.write('{"kind": "step", "step": 8, "loss": 1.0}\n{"kind": "st')
    with run.samples.open("a", encoding="utf-8") as file:
        file.write("\n== step 9 ==\nfrom the future\n")
    runs.resume(run.path)
    assert runs.left_behind(run.path) == runs.left_behind(tmp_path / "unbroken")


def test_metrics_up_to_a_checkpoint_are_on_the_disk_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    config = runs.config_of(runs.settings(runs.write_text(tmp_path), runs.GPT2, eval_interval=12))
    training = begin.start_run(config, RunFolder(tmp_path / "run"))
    save = training.store.save

    def spying(weights: Any, optimizer: Any, state: dict[str, Any], *others: Any) -> str:
        steps = [r for r in read_metrics(training.folder.metrics) if r["kind"] == "step"]
        seen.append((state["step"], len(steps)))
        return save(weights, optimizer, state, *others)

    monkeypatch.setattr(training.store, "save", spying)
    training.run()
    training.pieces.close()
    assert seen == [(3, 3), (6, 6), (9, 9), (12, 12)]


def test_only_some_settings_may_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = runs.settings(runs.write_text(tmp_path), runs.GPT2)
    path = runs.write_config(tmp_path, values)
    run = str(tmp_path / "run")
    assert main(["train", str(path), "--out", run, "--quiet", "--set", "training.steps=3"]) == 0
    before = runs.snapshot(tmp_path / "run")
    other = tmp_path / "other.yaml"
    other.write_text(json.dumps(values | {"model": runs.GPT2 | {"n_layer": 3}}), encoding="utf-8")
    refused = [
        ["train", run, "--resume", "--set", "optimizer.learning_rate=1"],
        ["train", run, "--resume", "--set", "model.n_layer=3"],
        ["train", str(other), "--out", run, "--resume"],
        ["train", run, "--resume", "--text", str(path)],
        ["train", run, "--resume", "--out", str(tmp_path / "elsewhere")],
        ["train", run],
        ["train", str(path), "--out", run],
        ["train", str(tmp_path), "--resume"],
        ["train", str(path), "--out", str(tmp_path / "none"), "--resume"],
    ]
    capsys.readouterr()
    for arguments in refused:
        assert main([*arguments, "--quiet"]) == 2, arguments
        shown = capsys.readouterr()
        assert shown.out == ""
        assert (shown.err.count("\n"), shown.err[:7]) == (1, "error: "), shown.err
    assert runs.snapshot(tmp_path / "run") == before
    assert main(["train", str(path), "--out", run, "--resume", "--quiet"]) == 0
    assert main(["train", run, "--resume", "--quiet", "--set", "training.steps=4"]) == 0
    assert [r["step"] for r in runs.measured(tmp_path / "run") if r["kind"] == "step"] == [
        1,
        2,
        3,
        4,
    ]
    assert main(["train", run, "--out", run, "--resume", "--quiet"]) == 0


def test_an_interrupt_while_the_folder_is_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(begin, "write_manifest", interrupted)
    config = runs.config_of(runs.settings(runs.write_text(tmp_path), runs.GPT2))
    with pytest.raises(KeyboardInterrupt):
        begin.start_run(config, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def _kill_after(process: Any, n_steps: int, number: int) -> tuple[int, str]:
    """Signal a process that trains with --json after so many steps; its exit code and stderr."""
    seen = 0
    for line in process.stdout:
        seen += json.loads(line)["event"] == "step_done"
        if seen == n_steps:
            process.send_signal(number)
            break
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals between processes")
def test_killed_interrupted_and_terminated_processes_resume_exactly(tmp_path: Path) -> None:
    values = runs.settings(
        runs.write_text(tmp_path), runs.GPT2, steps=400, eval_interval=60, checkpoint_interval=7
    )
    config = runs.write_config(tmp_path, values)
    run = str(tmp_path / "run")
    draw = random.Random()
    n_steps = draw.randint(1, 90)
    killed = runs.process("train", str(config), "--out", run, "--json")
    code, _ = _kill_after(killed, n_steps, signal.SIGKILL)
    assert code == -signal.SIGKILL
    for number in (signal.SIGINT, signal.SIGTERM):
        stopped = runs.process("train", run, "--resume", "--json")
        code, errors = _kill_after(stopped, draw.randint(1, 90), number)
        assert (code, f"bptool train {run} --resume" in errors) == (128 + number, True), errors
        assert "Traceback" not in errors
    assert not list(Path(run).rglob(".writing-*"))
    assert main(["train", run, "--resume", "--quiet"]) == 0
    runs.train(runs.config_of(values), tmp_path / "unbroken")
    assert runs.left_behind(Path(run)) == runs.left_behind(tmp_path / "unbroken"), n_steps


def test_samples_and_metrics_say_when_they_cannot_be_written(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full, a file that is always full")
    for name in ("metrics.jsonl", "samples.txt"):
        (tmp_path / name).symlink_to("/dev/full")
    metrics, samples = (
        MetricsFile(tmp_path / "metrics.jsonl"),
        SamplesFile(tmp_path / "samples.txt"),
    )
    metrics.open()
    state = State(1, 1)
    metrics(Evaluated(1, 1.0, 1.0, 1.0, 1, 1.0, is_best=True, overfitting=False), state)
    with pytest.raises(RunError, match=r"metrics\.jsonl cannot be written: .*free some space"):
        metrics.sync()
    metrics.close()
    warnings: list[Any] = []
    samples.emit = warnings.append
    samples(Sampled(1, "", "x" * 100), state)
    (warning,) = warnings
    assert re.search(r"samples\.txt cannot be written: .*free some space", warning.text)


def test_what_is_opened_are_the_weights_that_were_evaluated(tmp_path: Path) -> None:
    rule = {"optimizer": {"name": "schedule-free-adamw"}}
    config = runs.config_of(runs.settings(runs.write_text(tmp_path), runs.GPT2) | rule)
    training = begin.start_run(config, RunFolder(tmp_path / "run"))
    training.run()
    training.pieces.close()
    step = training.pieces.step
    opened = open_run(tmp_path / "run", last=True)
    step.evaluation_params()
    assert np.array_equal(opened.weights, step.evaluation_weights)
    assert not np.allclose(opened.weights, step.weights, rtol=1e-3)
