"""Runs that learn nothing: what is said of them, while they run and at the end, and exit code 3."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_runs as runs

from bptool.config.load import resolve
from bptool.training import health
from bptool.training.checkpoint import CheckpointStore
from bptool.training.events import StepDone
from bptool.training.health import ENOUGH_STEPS, Health, guessing_loss
from bptool.training.run_folder import RunFolder
from bptool.training.setup import build

NEVER = "no evaluation was below guessing by the frequencies of the tokens"


def test_guessing_is_the_cross_entropy_under_the_frequencies() -> None:
    train, judged = np.array([0, 0, 0, 1], np.uint16), np.array([0, 1, 2], np.uint16)
    expected = -(math.log(4 / 7) + math.log(2 / 7) + math.log(1 / 7)) / 3
    assert guessing_loss(train, judged, 3) == pytest.approx(expected, rel=1e-12)
    masked = np.array([-1, 0, -1, 1, 2, -1], np.int32)
    assert guessing_loss(train, masked, 3) == pytest.approx(expected, rel=1e-12)


def test_slices_count_what_the_whole_does(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.random.default_rng(1).integers(0, 50, 10_000).astype(np.uint16)
    whole = guessing_loss(ids, ids[:777], 50)
    monkeypatch.setattr(health, "SLICE", 97)
    monkeypatch.setattr(health, "MOST_SLICES", 10**6)
    assert guessing_loss(ids, ids[:777], 50) == whole


def test_of_a_long_text_slices_at_equal_distances_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "SLICE", 10)
    monkeypatch.setattr(health, "MOST_SLICES", 4)
    ids = np.repeat(np.arange(8, dtype=np.uint16), 10)  # slice i holds token i alone
    counted = [math.exp(-guessing_loss(ids, np.array([v]), 8)) * 48 - 1 for v in range(8)]
    np.testing.assert_allclose(counted, [10, 0, 10, 0, 10, 0, 10, 0], atol=1e-9)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with a text and ``config.yaml``."""
    runs.make_quick(monkeypatch, tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    values = runs.settings(
        runs.write_text(tmp_path, 1500), runs.MLP, steps=60, eval_interval=10, eval_tokens=100
    )
    return runs.write_config(tmp_path, values)


def test_a_lesson_guesses_what_its_evaluations_read(config: Path, tmp_path: Path) -> None:
    pieces = build(resolve(config).config)
    try:
        corpus = pieces.corpus
        expected = guessing_loss(
            corpus.train, corpus.validation[1:101], corpus.tokenizer.vocab_size
        )
        assert pieces.lesson.guessing_loss == expected
    finally:
        pieces.close()
    runs.train(resolve(config).config, tmp_path / "run")
    manifest = json.loads(RunFolder(tmp_path / "run").manifest.read_text(encoding="utf-8"))
    assert manifest["guessing_loss"] == expected


def train(*sets: str, out: str = "run", more: Sequence[str] = ()) -> tuple[int, list[str], str]:
    """Exit code, lines of standard output and standard error of a training command."""
    options = [word for value in sets for word in ("--set", value)]
    process = runs.process("train", "config.yaml", "--out", out, *options, *more)
    shown, errors = process.communicate(timeout=300)
    return process.returncode, shown.splitlines(), errors


def warnings(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if line.startswith("warning: ")]


def test_a_run_that_learns_is_not_warned_about(config: Path) -> None:
    code, lines, errors = train()
    assert (code, warnings(lines), errors) == (0, [], "")


def test_a_rate_far_too_high_is_said_at_once_and_ends_with_code_3(config: Path) -> None:
    sets = ("optimizer.learning_rate=100", "training.clip_norm=null", "optimizer.weight_decay=0")
    code, lines, _ = train(*sets)
    assert code == 3
    first, last = warnings(lines)
    assert "is not below guessing by the frequencies of the tokens" in first
    assert first.startswith("warning: step 10: the validation loss, ")
    assert last.startswith(f"warning: {NEVER}")
    assert "lower optimizer.learning_rate" in last
    ended = next(i for i, line in enumerate(lines) if line.startswith("Trained 60 steps"))
    assert lines.index(first) < ended < lines.index(last)
    assert CheckpointStore(Path("run") / "checkpoints", 2, None).index().last == "step-00000060"
    code, lines, _ = train(*sets, out="quiet", more=["--quiet"])
    assert (code, len(lines)) == (3, 1)
    assert f"; warning: {NEVER}" in lines[0]
    code, lines, _ = train(*sets, out="json", more=["--json"])
    end = json.loads(lines[-1])
    assert (code, end["failed"], end["event"]) == (3, True, "training_finished")
    assert NEVER in end["warnings"][0]
    assert end["guessing_loss"] < end["best_val_loss"]


def test_a_rate_far_too_low_is_said_after_a_fifth(config: Path) -> None:
    steps = 5 * ENOUGH_STEPS + 50
    code, lines, _ = train("optimizer.learning_rate=1e-12", f"training.steps={steps}")
    assert code == 3
    first, last = (line for line in warnings(lines) if "guessing" in line)
    assert first.startswith(f"warning: step {steps // 5}: the training loss, ")
    assert "optimizer.learning_rate" in first
    assert last.startswith(f"warning: {NEVER}")


def test_a_run_too_short_to_judge_is_only_told_so(config: Path) -> None:
    code, lines, _ = train("training.steps=2")
    (warning,) = warnings(lines)
    assert (code, warning.startswith(f"warning: {NEVER}")) == (0, True)
    assert "2 steps are too few to judge" in warning


def test_a_run_that_was_below_guessing_once_has_not_failed() -> None:
    watch = Health(3.0, 300, None)
    list(watch.after_step(done(1, 4.0)))
    assert not list(watch.after_evaluation(100, 2.5, 2.5))
    (said,) = watch.after_evaluation(200, 5.0, 5.0)
    assert said.startswith("step 200: the validation loss, 5.0000, is not below guessing by ")
    assert said.endswith("; the best checkpoint is kept")
    assert not list(watch.after_evaluation(300, 5.0, 5.0))  # said already
    (last,) = watch.at_end(300)
    assert last.startswith("the last validation loss, 5.0000, is not below guessing")
    assert not watch.has_failed(300)


def test_numbers_that_are_not_finite_from_the_start_end_with_code_3(config: Path) -> None:
    values = runs.settings(Path("text.txt").absolute(), runs.GPT2, steps=60, clip_norm=None)
    runs.write_config(Path(), values | {"optimizer": {"name": "sgd", "learning_rate": 1e6}})
    code, _, errors = train()
    assert "steps had no finite loss or gradient" in errors
    assert code == 3


def done(step: int, loss: float, grad_norm: float = 1.0) -> StepDone:
    return StepDone(step, loss, 0.0, grad_norm, 0.1, 0.1, 10, 1e3)


def test_a_gradient_of_zero_is_said_once_and_counted_at_the_end() -> None:
    watch = Health(3.0, 300, None)
    said = [text for step in range(1, 6) for text in watch.after_step(done(step, 2.0, 0.0))]
    assert said == ["step 1: the gradient is zero, so nothing is learned from it"]
    assert not list(watch.after_evaluation(5, 2.0, 2.0))
    assert list(watch.at_end(5)) == [
        "the gradient was zero at 5 steps; nothing was learned from them"
    ]


def test_what_is_not_finite_after_the_last_evaluation_is_said() -> None:
    watch = Health(3.0, 300, None)
    list(watch.after_step(done(1, 4.0)))
    assert not list(watch.after_evaluation(1, 2.0, 2.0))
    for step in (2, 3):
        list(watch.after_step(done(step, math.nan, math.nan)))
    assert list(watch.at_end(3)) == ["no finite loss or gradient since step 1"]
    (now,) = watch.after_evaluation(3, math.nan, math.nan)
    assert now == ("step 3: the validation loss, nan, is not finite; the best checkpoint is kept")
    assert "the last validation loss, nan, is not finite" in list(watch.at_end(3))[-1]
    assert not watch.has_failed(3)


def test_of_weights_and_their_average_either_may_be_below() -> None:
    watch = Health(3.0, 300, None)
    list(watch.after_step(done(1, 4.0)))
    list(watch.after_evaluation(ENOUGH_STEPS, 3.5, 2.9))  # an average lags behind
    assert not watch.has_failed(ENOUGH_STEPS)
    other = Health(3.0, 300, None)
    list(other.after_step(done(1, 4.0)))
    list(other.after_evaluation(ENOUGH_STEPS, 3.5, 3.1))
    assert other.has_failed(ENOUGH_STEPS)


def test_a_short_run_that_is_resumed_without_a_step_has_not_failed() -> None:
    watch = Health(3.0, 3, 3.5)
    assert not list(watch.after_evaluation(8, 3.5, 3.5))
    assert not watch.has_failed(8)
    assert "8 steps are too few to judge" in next(iter(watch.at_end(8)))


def test_losses_that_are_not_of_tokens_have_no_guessing() -> None:
    watch = Health(None, 300, None)
    for step in range(1, 301):
        assert not list(watch.after_step(done(step, 50.0 + step)))
    assert not list(watch.after_evaluation(300, 900.0, 900.0))
    assert (list(watch.at_end(300)), watch.has_failed(300)) == ([], False)


def test_a_resumed_run_remembers_that_it_was_below(config: Path, tmp_path: Path) -> None:
    first = runs.train(resolve(config).config, tmp_path / "run")
    best: Any = first.events[-1]
    assert best.best_val_loss < best.guessing_loss
    watch = Health(best.guessing_loss, 600, best.best_val_loss)
    for step in range(61, 400):
        assert not list(watch.after_step(done(step, 9.0)))
    assert not watch.has_failed(400)


def test_sft_guesses_by_the_tokens_that_are_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.write_finetuning(tmp_path)
    monkeypatch.chdir(tmp_path)
    process = runs.process(
        *("finetune", "sft", "base", "--data", "records.jsonl", "--out", "sft", "--json"),
        *("--set", "training.steps=2"),
    )
    shown, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    end = json.loads(shown.splitlines()[-1])
    pieces = build(resolve(Path("sft") / "config.yaml").config)
    try:
        rows: Any = pieces.lesson
        trained, judged = (
            part.targets[part.targets >= 0]
            for part in (rows.records.train, rows.records.validation)
        )
        n_vocab = pieces.corpus.tokenizer.vocab_size
        counts = np.bincount(trained, minlength=n_vocab)
        logp = np.log((counts + 1) / (len(trained) + n_vocab))
        assert end["guessing_loss"] == pytest.approx(-logp[judged].mean(), rel=1e-9)
    finally:
        pieces.close()
