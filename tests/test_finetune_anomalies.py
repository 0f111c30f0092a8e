"""Numbers that are not finite in fine-tuning: the first tensor is named, whatever the method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_runs as runs
from fine_tuning_runs import settled

from bptool.errors import DivergedError
from bptool.objectives.dpo import DPO
from bptool.training import begin
from bptool.training.anomaly import first_anomaly
from bptool.training.run import Training
from bptool.training.run_folder import RunFolder

BAD = {
    "h.0.attn.c_attn.weight": (3e38, "result of queries, keys and values, layer 0"),
    "h.1.mlp.c_fc.weight": (1e38, "the result of activation, layer 1"),
    "h.1.mlp.c_proj.weight": (3e38, "residual stream after the MLP, layer 1"),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: Any) -> Path:
    return runs.write_finetuning(tmp_path_factory.mktemp("anomalies"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs.make_quick(monkeypatch, tmp_path / "cache")


def started(base: Path, method: str, tmp_path: Path, sets: Any = ()) -> Training:
    """A run that stops at the first step whose numbers are not finite."""
    config = settled(base, method, tmp_path / "run", sets)
    return begin.start_run(config, RunFolder(tmp_path / "run"), detect_anomaly=True)


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("method", ["sft", "dpo", "kto", "reward"])
@pytest.mark.parametrize("rows_at_once", [2, 4])
def test_the_first_operation_at_fault_is_found(
    name: str, method: str, rows_at_once: int, base: Path, tmp_path: Path
) -> None:
    value, words = BAD[name]
    training = started(base, method, tmp_path, [f"training.micro_batch_size={rows_at_once}"])
    step = training.pieces.step
    try:
        training.pieces.lesson.compile()  # the reference is asked before
        training.pieces.lesson.step(1, 0.0)
        assert first_anomaly(step) is None
        tensor = step.model.layout.named(step.weights)[name]
        tensor[...] = np.sign(tensor + 1e-30) * value
        assert not training.pieces.lesson.step(2, 0.0).result.updated
        found = first_anomaly(step)
    finally:
        training.pieces.close()
    assert found is not None
    assert words in str(found)


@pytest.mark.parametrize("method", ["ppo", "grpo"])
def test_what_an_objective_is_given_is_looked_at(
    method: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = started(base, method, tmp_path)
    monkeypatch.setattr(training.pieces.lesson._rewards, "scores", lambda asked, texts: bad(texts))
    with pytest.raises(DivergedError) as caught:
        training.run()
    training.pieces.close()
    assert f"the result of advantages, given to {method}: nan" in str(caught.value)


def bad(texts: Any) -> Any:
    rewards = np.arange(len(texts), dtype=np.float64)
    rewards[0] = np.nan
    return rewards


def test_what_an_objective_gives_is_looked_at(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradient = DPO.gradient

    def wrong(self: Any, batch: Any, logp: Any, scores: Any, dlogp: Any, dscores: Any) -> None:
        gradient(self, batch, logp, scores, dlogp, dscores)
        dlogp[np.flatnonzero(dlogp)[0]] = np.inf

    monkeypatch.setattr(DPO, "gradient", wrong)
    training = started(base, "dpo", tmp_path)
    with pytest.raises(DivergedError, match=r"the result of dpo, its gradient by log-prob.*: inf"):
        training.run()
    training.pieces.close()
