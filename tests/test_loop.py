"""The training loop and its callbacks: whatever happens when, no bit depends on who looks on, on
being stopped, or on being cut off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_runs as runs

from bptool.training import begin
from bptool.training.callback import Answer, Callback, Event, Reached, RollBack, State, Stop
from bptool.training.events import Notice, StepDone
from bptool.training.lessons.base import Judged, Lesson, LessonStep
from bptool.training.loop import Loop
from bptool.training.run_folder import RunFolder
from bptool.training.step import StepResult

SPIKES = {"then": "rollback", "standard_deviations": 1.0, "over": 6, "max_rollbacks": 100}
RUNS: dict[str, Any] = {
    "rollback": {
        "training": {"steps": 16, "spikes": SPIKES, "micro_batch_size": 3},
        "optimizer": {"name": "adamw", "learning_rate": 0.2},
        "schedule": "constant",
        "averaging": {"name": "ema"},
    },
    "early stopping": {
        "training": {
            "steps": 16,
            "eval_interval": 2,
            "eval_tokens": 256,
            "early_stopping": {"patience": 2, "min_improvement": 0.5},
        },
    },
}


class CutOff(Exception):
    """The process ends here."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs.make_quick(monkeypatch, tmp_path / "cache")


def _config(name: str, folder: Path) -> Any:
    changed = dict(RUNS[name])
    values = runs.settings(runs.write_text(folder), runs.GPT2, **changed.pop("training"))
    return runs.config_of(values | changed)


def _train_until(config: Any, folder: Path, kind: str, nth: int, how: str) -> bool:
    """Start a run that is stopped or cut off at the ``nth`` event of a kind; whether it was."""
    left = nth

    def listener(event: Any) -> None:
        nonlocal left
        left -= type(event).__name__ == kind
        if left == 0 and type(event).__name__ == kind:
            if how == "cut off":
                raise CutOff
            training.request_stop()

    training = begin.start_run(config, RunFolder(folder), [listener])
    try:
        training.run()
    except CutOff:
        pass
    finally:
        training.pieces.close()
    return left <= 0


@pytest.mark.parametrize("name", RUNS)
def test_stopped_after_every_kind_of_event_a_run_is_that_which_was_not(
    name: str, tmp_path: Path
) -> None:
    config = _config(name, tmp_path)
    events = runs.train(config, tmp_path / "unbroken").events
    kinds = [type(event).__name__ for event in events]
    expected = {"TrainingStarted", "Compiling", "StepDone", "Evaluated", "CheckpointSaved"}
    expected |= {"Sampled", "Notice" if name == "rollback" else "StoppedEarly"}
    assert expected <= set(kinds)
    assert name != "rollback" or any("back to step" in str(event) for event in events)
    unbroken = runs.left_behind(tmp_path / "unbroken")
    for kind in sorted(set(kinds) - {"TrainingFinished"}):
        n = kinds.count(kind)
        for nth, how in ((max(1, n // 2), "stopped"), (n, "cut off")):
            folder = tmp_path / f"{kind}-{how}"
            assert _train_until(config, folder, kind, nth, how)
            runs.resume(folder)
            assert runs.left_behind(folder) == unbroken, (kind, nth, how)


@pytest.mark.parametrize("name", RUNS)
def test_looking_on_changes_no_bit(name: str, tmp_path: Path) -> None:
    config = _config(name, tmp_path)
    runs.train(config, tmp_path / "alone")
    seen: list[Any] = []

    def look(event: Any) -> None:
        step = training.pieces.step
        seen.append((event, step.average_params(), float(np.sum(step.weights))))

    training = begin.start_run(config, RunFolder(tmp_path / "seen"), [look, look])
    try:
        training.run()
    finally:
        training.pieces.close()
    assert len(seen) > 2 * 16
    assert runs.left_behind(tmp_path / "seen") == runs.left_behind(tmp_path / "alone")


class Counted(Lesson):
    """Steps that train nothing."""

    tokens_per_step = 1

    def step(self, number: int, learning_rate: float) -> LessonStep:
        return LessonStep(StepResult(float(number), 0.0, 1.0, updated=True), 1, 1.0)

    def evaluate(self, params: Any) -> Judged:
        raise NotImplementedError


class Answering(Callback):
    """Keeps what it is told, and answers once."""

    def __init__(self, kind: type, step: int, answer: Answer) -> None:
        self._kind, self._step, self._answer = kind, step, answer
        self.told: list[tuple[str, int]] = []

    def __call__(self, event: Event, state: State) -> Answer:
        where = state.step if isinstance(event, Notice) else event.step
        self.told.append((type(event).__name__, where))
        if isinstance(event, self._kind) and where == self._step:
            answer, self._answer = self._answer, None
            return answer
        return None


def _told(kind: type, step: int, answer: Answer, n_steps: int = 2) -> tuple[Any, Any, Any]:
    first, second = Answering(kind, step, answer), Answering(kind, 0, None)
    loop = Loop(
        Counted(), lambda step: 1.0, [first, second], State(0, n_steps), lambda s: State(s, n_steps)
    )
    return loop.run(), first.told, second.told


def test_the_loop_tells_of_a_step_and_then_that_it_is_reached() -> None:
    stop, first, second = _told(StepDone, 9, None)
    steps = [(kind, step) for step in (1, 2) for kind in ("StepDone", "Reached")]
    assert (stop, first) == (None, [("Reached", 0), *steps, ("LoopEnded", 2)])
    assert second == first


def test_an_answer_to_a_step_ends_it() -> None:
    stop, first, second = _told(StepDone, 1, Stop("diverged"))
    assert stop == Stop("diverged")
    assert first == [("Reached", 0), ("StepDone", 1)]
    assert second == [("Reached", 0)]


def test_only_the_loop_goes_back() -> None:
    stop, first, second = _told(StepDone, 2, RollBack(1, "why"))
    back = [("Reached", 1), ("Notice", 1), ("StepDone", 2), ("Reached", 2), ("LoopEnded", 2)]
    before = [("Reached", 0), ("StepDone", 1), ("Reached", 1)]
    assert (stop, first) == (None, [*before, ("StepDone", 2), *back])
    assert second == [*before, *back]


def test_a_stop_after_what_was_reached_is_the_last_that_is_told() -> None:
    stop, first, second = _told(Reached, 1, Stop("early stopping"))
    assert stop == Stop("early stopping")
    assert first == [("Reached", 0), ("StepDone", 1), ("Reached", 1), ("LoopEnded", 1)]
    assert second == first


def test_the_state_that_callbacks_see_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        State(1, 2).step = 3  # type: ignore[misc]
