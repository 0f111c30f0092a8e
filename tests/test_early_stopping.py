"""Early stopping: the paired margin, the waiting, the event, and an exact resume."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_runs as runs
from hypothesis import given
from hypothesis import strategies as st

from bptool.config.schema import EarlyStopping
from bptool.errors import ConfigError, RunError
from bptool.training.early_stopping import Waiting, compare, judge
from bptool.training.evaluation import MAX_BLOCKS, Block, Evaluation, blocks_of
from bptool.training.events import Evaluated, StepDone, StoppedEarly, TrainingFinished
from bptool.training.progress import Progress


def evaluation(losses: Any, tokens: Any = None) -> Evaluation:
    tokens = [100] * len(losses) if tokens is None else tokens
    blocks = tuple(map(Block, map(float, losses), map(int, tokens)))
    return Evaluation(float(np.average(losses, weights=tokens)), int(sum(tokens)), 1, blocks)


def test_the_standard_error_is_that_of_paired_differences() -> None:
    rng = np.random.default_rng(0)
    before, now = rng.normal(2, 0.5, (2, 30))
    improvement, error = compare(list(before), list(now), [7] * 30)
    assert improvement == pytest.approx(np.mean(before - now))
    assert error == pytest.approx(np.std(before - now, ddof=1) / math.sqrt(30))


def test_blocks_of_unequal_size_weigh_as_their_tokens() -> None:
    improvement, _ = compare([2.0, 3.0], [1.0, 3.5], [300, 100])
    assert improvement == pytest.approx(0.75 * 1.0 - 0.25 * 0.5)


def test_the_margin_is_above_the_noise_as_often_as_it_says() -> None:
    """Where the true improvement is nothing, two standard errors are passed about 1 time in 40;
    the noise that both models share does not widen the margin."""
    rng, n, passed, margins = np.random.default_rng(1), 2000, 0, []
    settings = EarlyStopping(standard_errors=2.0)
    for _ in range(n):
        hard = rng.normal(3, 1.0, 64)
        waiting = Waiting()
        judge(waiting, evaluation(hard + rng.normal(0, 0.1, 64)), 1, settings)
        improvement, margin = judge(waiting, evaluation(hard + rng.normal(0, 0.1, 64)), 2, settings)
        passed += improvement > margin
        margins.append(margin)
        assert waiting.evaluations == (0 if improvement > margin else 1)
    assert 0.015 < passed / n < 0.04
    assert np.mean(margins) == pytest.approx(2 * 0.1 * math.sqrt(2 / 64), rel=0.02)


def test_slow_progress_adds_up_to_an_improvement() -> None:
    rng, waiting, settings = np.random.default_rng(2), Waiting(), EarlyStopping()
    hard, waited = rng.normal(3, 1, 64), []
    for step in range(1, 40):
        losses = hard - 0.004 * step + rng.normal(0, 0.05, 64)
        judge(waiting, evaluation(losses), step, settings)
        waited.append(waiting.evaluations)
    assert max(waited) < 15
    assert waited.count(0) > 3
    for step in range(40, 60):  # and then none
        judge(waiting, evaluation(hard - 0.16 + rng.normal(0, 0.05, 64)), step, settings)
    assert waiting.evaluations >= 15


def test_the_least_improvement_counts_too() -> None:
    waiting, settings = Waiting(), EarlyStopping(standard_errors=0, min_improvement=0.1)
    for step, (loss, want) in enumerate([(3.0, 0), (2.95, 1), (2.91, 2), (2.89, 0)]):
        judge(waiting, evaluation([loss] * 8), step, settings)
        assert waiting.evaluations == want
    assert (waiting.step, waiting.loss) == (3, pytest.approx(2.89))


def test_a_loss_that_is_no_number_never_counts() -> None:
    waiting, settings = Waiting(), EarlyStopping()
    judge(waiting, evaluation([math.nan] * 8), 1, settings)
    assert (waiting.evaluations, waiting.losses) == (1, [])
    judge(waiting, evaluation([2.0] * 8), 2, settings)
    judge(waiting, evaluation([math.nan] * 8), 3, settings)
    assert (waiting.step, waiting.evaluations) == (2, 1)


def test_other_tokens_than_before_begin_anew() -> None:
    waiting, settings = Waiting(), EarlyStopping()
    judge(waiting, evaluation([2.0] * 8), 1, settings)
    improvement, _ = judge(waiting, evaluation([3.0] * 9), 2, settings)
    assert math.isnan(improvement)
    assert (waiting.step, waiting.evaluations) == (2, 0)


@given(n_windows=st.integers(1, 300), padding=st.integers(0, 5), last=st.integers(1, 9))
def test_blocks_hold_every_window_once(n_windows: int, padding: int, last: int) -> None:
    rng = np.random.default_rng(n_windows)
    losses = np.append(rng.uniform(1, 9, n_windows), np.zeros(padding))
    counts = np.append(np.full(n_windows - 1, 9), [last] + [0] * padding)
    blocks = list(blocks_of(losses, counts))
    assert len(blocks) == min(n_windows, MAX_BLOCKS)
    assert sum(block.n_tokens for block in blocks) == counts.sum()
    total = sum(block.loss * block.n_tokens for block in blocks)
    assert total == pytest.approx(losses.sum(), rel=1e-12)


@pytest.fixture
def values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A run that stops at its third evaluation without an improvement, since none is enough."""
    runs.make_quick(monkeypatch, tmp_path / "cache")
    stopping = {"patience": 3, "min_improvement": 100.0}
    return runs.settings(
        *(runs.write_text(tmp_path), runs.GPT2),
        **{"steps": 40, "eval_interval": 4, "checkpoint_interval": 3, "early_stopping": stopping},
    )


def test_a_run_stops_says_so_and_resumes_exactly(tmp_path: Path, values: dict[str, Any]) -> None:
    config = runs.config_of(values)
    events = runs.train(config, tmp_path / "unbroken").events
    assert [e.step for e in events if isinstance(e, Evaluated)] == [4, 8, 12, 16]
    (stopped,) = [event for event in events if isinstance(event, StoppedEarly)]
    assert (stopped.step, stopped.since_step, stopped.n_evaluations) == (16, 4, 3)
    assert stopped.margin == 100.0
    first, *_, last = (e.val_loss for e in events if isinstance(e, Evaluated))
    assert stopped.since_val_loss == pytest.approx(first)
    assert stopped.improvement == pytest.approx(first - last)
    finished = events[-1]
    assert isinstance(finished, TrainingFinished)
    assert (finished.step, finished.stopped_early, finished.interrupted) == (16, True, False)

    for stop_at in (8, 13):
        run = tmp_path / f"run{stop_at}"
        runs.train(config, run, stop_at)
        resumed = runs.resume(run).events
        assert [e for e in resumed if isinstance(e, StoppedEarly)] == [stopped]
        assert runs.left_behind(run) == runs.left_behind(tmp_path / "unbroken")
    # going on with a run that has stopped stops again, without a step
    again = runs.resume(tmp_path / "unbroken").events
    assert not [event for event in again if isinstance(event, StepDone)]
    assert [e for e in again if isinstance(e, StoppedEarly)] == [stopped]
    assert runs.left_behind(tmp_path / "run8") == runs.left_behind(tmp_path / "unbroken")
    # unless it is told otherwise
    more = runs.resume(tmp_path / "run8", ["training.early_stopping=null"], stop_at=18).events
    assert [e.step for e in more if isinstance(e, StepDone)] == [17, 18]
    patient = runs.resume(tmp_path / "run13", ["training.early_stopping.patience=4"]).events
    assert [e.step for e in patient if isinstance(e, StoppedEarly)] == [20]


def test_too_few_windows_are_refused_before_anything_is_made(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    values["training"]["eval_tokens"] = 7 * 8
    with pytest.raises(ConfigError, match="found 7 windows of validation text, need at least 8"):
        runs.train(runs.config_of(values), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_damaged_state_is_one_line() -> None:
    good = {**Progress().__dict__, "waiting": {"losses": [], "tokens": [], "step": 0}}
    for waiting in (
        good["waiting"],
        "missing",
        {"losses": [1.0], "tokens": [], "step": 0, "evaluations": 0},
        {"losses": ["x"], "tokens": [1], "step": 0, "evaluations": 0},
        {"losses": [1.0], "tokens": [1], "step": 0.5, "evaluations": 0},
    ):
        with pytest.raises(RunError, match=r"state\.json is damaged: 'waiting' is"):
            Progress.from_state(good | {"waiting": waiting}, "state.json")
