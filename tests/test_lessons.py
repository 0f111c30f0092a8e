"""A lesson's own state, statistics and notices: through the loop, a checkpoint, and a resume."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_runs as runs

from bptool.errors import RunError
from bptool.models.base import Array
from bptool.training import setup
from bptool.training.events import Notice, StepDone
from bptool.training.lessons.base import Judged, LessonStep
from bptool.training.lessons.next_token import NextToken
from bptool.training.seal import write_sealed


class Counting(NextToken):
    """Pretraining that keeps a sum of losses and the last rates, and scales the rate by both."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.total = 0.0
        self.rates = np.zeros(3)
        self._said: list[Notice] = []

    def step(self, number: int, learning_rate: float) -> LessonStep:
        rate = learning_rate * (1.0 + 0.1 * np.tanh(self.total + self.rates.sum()))
        taken = super().step(number, rate)
        self.total += taken.result.loss
        self.rates[number % 3] = rate
        self._said += [Notice(f"step {number}")]
        return LessonStep(taken.result, taken.n_tokens, taken.flops, {"total": self.total})

    def evaluate(self, params: Any) -> Judged:
        return Judged(super().evaluate(params).evaluation, {"undefined": float("nan")})

    def notices(self) -> Iterable[Notice]:
        said, self._said = self._said, []
        return said

    def state(self) -> dict[str, Any]:
        return {"total": self.total}

    def load(self, state: Mapping[str, Any]) -> None:
        self.total = state["total"]

    def arrays(self) -> dict[str, Array]:
        return {"rates": self.rates}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs.make_quick(monkeypatch, tmp_path / "cache")


def test_what_a_lesson_keeps_survives_a_resume(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(setup, "NextToken", Counting)
    config = runs.config_of(runs.settings(runs.write_text(tmp_path), runs.GPT2))
    unbroken = runs.train(config, tmp_path / "unbroken")
    runs.train(config, tmp_path / "resumed", stop_at=7)
    runs.resume(tmp_path / "resumed")
    assert runs.left_behind(tmp_path / "resumed") == runs.left_behind(tmp_path / "unbroken")

    notices = [event.text for event in unbroken.events if isinstance(event, Notice)]
    assert notices == [f"step {n}" for n in range(1, 13)]
    totals = np.cumsum([event.loss for event in unbroken.events if isinstance(event, StepDone)])
    records = runs.measured(tmp_path / "unbroken")
    found = [r["statistics"] for r in records if r["kind"] == "step"]
    assert found == [{"total": pytest.approx(total)} for total in totals]
    judged = [r["statistics"] for r in records if r["kind"] == "evaluation"]
    assert judged == [{"undefined": None}] * 3


def test_pretraining_keeps_nothing_and_refuses_what_another_lesson_kept(tmp_path: Path) -> None:
    config = runs.config_of(runs.settings(runs.write_text(tmp_path), runs.GPT2))
    runs.train(config, tmp_path / "run", stop_at=3)
    assert all("statistics" not in record for record in runs.measured(tmp_path / "run"))
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    assert not (checkpoint / "lesson.safetensors").exists()
    state = checkpoint / "state.json"
    values = json.loads(state.read_text(encoding="utf-8")) | {"lesson": {"total": 1.0}}
    write_sealed(state, values)
    with pytest.raises(RunError, match="another kind of training"):
        runs.resume(tmp_path / "run")
