"""Saves that fail, numbers gone wrong, spikes, time limits and impatient signals."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import training_runs as runs

from bptool.cli.main import main
from bptool.cli.time_limit import TimeLimit, seconds_of
from bptool.errors import DivergedError, RunError, UserError
from bptool.training import begin
from bptool.training.anomaly import first_anomaly
from bptool.training.callback import State
from bptool.training.checkpoint import CheckpointStore
from bptool.training.events import Evaluated, Notice, StepDone
from bptool.training.metrics import MetricsFile, read_metrics
from bptool.training.run import Training
from bptool.training.run_folder import RunFolder
from bptool.training.spikes import PATIENCE, Watch


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs.make_quick(monkeypatch, tmp_path / "cache")


def _config(tmp_path: Path, **training: Any) -> Any:
    return runs.config_of(runs.settings(runs.write_text(tmp_path), runs.GPT2, **training))


def _notices(recorder: runs.Recorder) -> list[str]:
    return [event.text for event in recorder.events if isinstance(event, Notice)]


def _fail(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Let saves of these steps fail."""
    save = CheckpointStore.save

    def failing(self: CheckpointStore, *arguments: Any) -> str:
        if arguments[2]["step"] in steps:
            raise RunError("checkpoints cannot be written: No space left on device")
        return save(self, *arguments)

    monkeypatch.setattr(CheckpointStore, "save", failing)


def test_a_failed_save_is_said_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(tmp_path)
    runs.train(config, tmp_path / "unbroken")
    _fail(monkeypatch, {5, 6, 9})
    recorder = runs.train(config, tmp_path / "run")
    assert [text[:7] for text in _notices(recorder)] == ["step 5:", "step 6:", "step 9:"]
    assert "the last is untouched, training goes on" in _notices(recorder)[0]
    assert runs.left_behind(tmp_path / "run") == runs.left_behind(tmp_path / "unbroken")


def test_a_failing_last_save_ends_in_an_error_and_the_run_is_resumed_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = runs.settings(runs.write_text(tmp_path), runs.GPT2)
    path = runs.write_config(tmp_path, values)
    runs.train(runs.config_of(values), tmp_path / "unbroken")
    with monkeypatch.context() as patch:
        _fail(patch, {10, 12})
        assert main(["train", str(path), "--out", str(tmp_path / "run"), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error == "error: checkpoints cannot be written: No space left on device\n"
    runs.resume(tmp_path / "run")
    left, want = runs.left_behind(tmp_path / "run"), runs.left_behind(tmp_path / "unbroken")
    assert (left["metrics"], left["samples"]) == (want["metrics"], want["samples"])
    last = "checkpoints/step-00000012/weights.safetensors"
    assert left["hashes"][last] == want["hashes"][last]


class FullDisk:
    """In the place of a file: takes part of what is written, then nothing, until it has room."""

    def __init__(self, file: Any) -> None:
        self.file, self.full = file, False

    def write(self, data: bytes) -> int:
        return int(self.file.write(data[: len(data) // 2] if self.full else data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_metrics_wait_for_a_disk_with_room(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.open()
    disk = FullDisk(metrics._file)
    metrics._file = disk  # type: ignore[assignment]
    for step in range(1, 100):
        disk.full = 20 < step < 90
        metrics(StepDone(step, 1.0, 0.0, 1.0, 0.1, 0.1, 1, 1.0), State(step, 99))
        if step == 50:
            with pytest.raises(RunError, match="free some space"):
                metrics.sync()
            read_metrics(metrics.path)  # no torn line
    metrics.close()
    assert [record["step"] for record in read_metrics(metrics.path)] == list(range(1, 100))


@pytest.mark.parametrize("then", ["skip", "rollback"])
@pytest.mark.parametrize("stop_at", [9, 16])
def test_spikes_are_seen_to_and_a_resume_is_exact(then: str, stop_at: int, tmp_path: Path) -> None:
    spikes = {"then": then, "standard_deviations": 1.0, "over": 6, "max_rollbacks": 100}
    values = runs.settings(runs.write_text(tmp_path), runs.GPT2, steps=20, spikes=spikes)
    values |= {"optimizer": {"name": "adamw", "learning_rate": 0.2}, "schedule": "constant"}
    config = runs.config_of(values)
    unbroken = runs.train(config, tmp_path / "unbroken")
    said = [text for text in _notices(unbroken) if "is a spike" in text]
    assert said
    assert then == "rollback" or all("skipped" in text for text in said)
    steps = [event for event in unbroken.events if isinstance(event, StepDone)]
    assert sum(step.skipped for step in steps) == len(said)
    if then == "rollback":
        assert len(steps) > 20
        assert "learning rate times 0.5" in said[0]
        assert any("skipped" in text for text in said)
    runs.train(config, tmp_path / "run", stop_at)
    runs.resume(tmp_path / "run")
    left, want = runs.left_behind(tmp_path / "run"), runs.left_behind(tmp_path / "unbroken")
    assert left == want
    assert [r["step"] for r in left["metrics"] if r["kind"] == "step"] == list(range(1, 21))


def test_too_many_rollbacks_end_the_run(tmp_path: Path) -> None:
    spikes = {"then": "rollback", "standard_deviations": 0.3, "over": 6, "max_rollbacks": 1}
    values = runs.settings(runs.write_text(tmp_path), runs.GPT2, steps=20, spikes=spikes)
    values |= {"optimizer": {"name": "adamw", "learning_rate": 0.2}, "schedule": "constant"}
    with pytest.raises(DivergedError, match=r"is a spike again after 1 rollbacks; .*--checkpoint"):
        runs.train(runs.config_of(values), tmp_path / "run")


def test_a_score_is_deviations_above_the_mean_and_a_level_that_stays_is_new() -> None:
    class Settings:
        standard_deviations, over = 3.0, 10

    settings: Any = Settings()
    watch = Watch()
    for loss in (1.0, 3.0, 1.0, 3.0):
        assert np.isnan(watch.score(9.0, settings))
        watch.note_loss(loss, settings)
    assert np.isnan(watch.score(9.0, settings))
    watch.note_loss(2.0, settings)
    deviation = np.std([1.0, 3.0, 1.0, 3.0, 2.0])
    assert watch.score(5.0, settings) == pytest.approx(3.0 / deviation)
    assert watch.is_spike(6.0, settings)
    assert not watch.is_spike(-6.0, settings)
    assert [watch.note_spike() for _ in range(PATIENCE)] == [False] * (PATIENCE - 1) + [True]
    assert not watch.is_spike(6.0, settings)


def _started(tmp_path: Path, **training: Any) -> Training:
    return begin.start_run(_config(tmp_path, **training), RunFolder(tmp_path / "run"))


BAD: dict[str, tuple[str, float, str]] = {
    "a weight": ("h.1.attn.c_attn.weight", float("nan"), "the weight h.1.attn.c_attn.weight: nan"),
    "attention": ("h.0.attn.c_attn.weight", 3e38, "result of queries, keys and values, layer 0"),
    "an activation": ("h.1.mlp.c_fc.weight", 1e38, "the result of activation, layer 1"),
    "the stream": ("h.1.mlp.c_proj.weight", 3e38, "residual stream after the MLP, layer 1"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_the_first_number_that_is_not_finite_is_found(case: Any, tmp_path: Path) -> None:
    name, value, words = case
    training = _started(tmp_path, micro_batch_size=2, max_skipped=3)
    try:
        training.pieces.step.compile()
        assert first_anomaly(training.pieces.step) is None
        tensor = training.pieces.model.layout.named(training.pieces.step.weights)[name]
        tensor[...] = value if np.isnan(value) else np.sign(tensor + 1e-30) * value
        with pytest.raises(DivergedError, match=r"the last 3 steps had no finite") as caught:
            training.run()
    finally:
        training.pieces.close()
    assert words in str(caught.value)
    assert training.loop.state.step == 3


def test_anomalies_are_looked_for_at_once_where_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = runs.settings(runs.write_text(tmp_path), runs.GPT2, clip_norm=None)
    values["optimizer"] = {"name": "sgd", "learning_rate": 1e6}
    path = runs.write_config(tmp_path, values)
    arguments = ["train", str(path), "--quiet", "--out"]
    assert main([*arguments, str(tmp_path / "run"), "--detect-anomaly"]) == 1
    found = re.search(r"step (\d+): the step had no finite", capsys.readouterr().err)
    assert found
    other = main([*arguments, str(tmp_path / "other")])
    assert other in (0, 3)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("55m", 3300), ("1h30m", 5400), ("90s", 90), ("2h", 7200), ("1h0m1s", 3601)],
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "5", "m", "-5m", "1.5h", "5m1h", "5 m", "9999999h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is no time; write 55m"):
        seconds_of(text)


def test_a_time_limit_keeps_what_the_end_takes_free() -> None:
    class Stub:
        checkpoints, stopped = SimpleNamespace(seconds=4.0), 0

        def request_stop(self) -> None:
            self.stopped += 1

    now = [100.0]
    limit, stub = TimeLimit(60.0, lambda: now[0]), Stub()
    limit.training = stub  # type: ignore[assignment]
    step = StepDone(1, 1.0, 0.0, 1.0, 0.1, 2.0, 1, 1.0)
    limit(Evaluated(1, 1.0, 1.0, 1.0, 1, 10.0, is_best=True, overfitting=False))
    for now[0], stopped in ((101.0, 0), (138.9, 0), (139.1, 1), (150.0, 1)):
        limit(step)
        assert stub.stopped == stopped, now
    assert limit.has_passed


def test_a_run_at_its_time_limit_saves_and_exits_with_124(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = runs.settings(runs.write_text(tmp_path), runs.GPT2)
    path, run = runs.write_config(tmp_path, values), str(tmp_path / "run")
    assert main(["train", str(path), "--out", run, "--quiet", "--time-limit", "1s"]) == 124
    assert f"bptool train {run} --resume" in capsys.readouterr().err
    assert main(["train", run, "--resume", "--quiet"]) == 0
    runs.train(runs.config_of(values), tmp_path / "unbroken")
    assert runs.measured(Path(run)) == runs.measured(tmp_path / "unbroken")
    assert main(["train", run, "--resume", "--quiet", "--time-limit", "soon"]) == 2


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals between processes")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_leaves_at_once_with_the_last_checkpoint_whole(
    number: int, tmp_path: Path
) -> None:
    values = runs.settings(runs.write_text(tmp_path), runs.GPT2, steps=100_000)
    path, run = runs.write_config(tmp_path, values), str(tmp_path / "run")
    process = runs.process("train", str(path), "--out", run, "--json")
    for line in process.stdout or ():
        if json.loads(line).get("step") == 7:
            break
    for _ in range(200):
        process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (-number, 128 + number), errors
    assert "Traceback" not in errors
    assert main(["train", run, "--resume", "--quiet", "--time-limit", "1s"]) == 124
    assert not list(Path(run).rglob(".writing-*"))


def test_an_error_of_the_system_while_saving_names_what_would_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notices: list[str] = []

    def keep(event: Any) -> None:
        if isinstance(event, Notice):
            notices.append(event.text)

    training = begin.start_run(_config(tmp_path), RunFolder(tmp_path / "run"), [keep])
    real = os.replace

    def failing(source: Any, target: Any) -> None:
        if "step-00000003" in str(target):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        training.run()
    training.pieces.close()
    assert len(notices) == 1
    assert "Input/output error; the checkpoint before is untouched" in notices[0]
