"""Averages of weights: every rule's contract, its numbers by definition, and its run."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_runs as runs

from bptool.cli.main import main
from bptool.errors import RunError
from bptool.optim.averages.none import NoAverage
from bptool.registry import averages
from bptool.training.events import CheckpointSaved, Evaluated
from bptool.training.trained import open_run

NAMES = [name for name in averages.names() if averages.get(name) is not NoAverage]
N = 37


def make(name: str, **options: Any) -> Any:
    cls = averages.get(name)
    return cls(cls.Config(**options))


def weights(n: int, dtype: Any) -> list[Any]:
    """So many weights in turn, the last element padding."""
    rng = np.random.default_rng(1)
    drawn = [rng.standard_normal(N).astype(dtype) for _ in range(n)]
    for w in drawn:
        w[-1] = 0
    return drawn


def averaged(rule: Any, taken: list[Any], *cuts: int, start: float = 0.0) -> Any:
    """The average after all of ``taken``, with the buffers cut at the given places."""
    average = np.full(N, start, taken[0].dtype)
    slots = {name: np.zeros_like(average) for name in rule.slots}
    edges = [0, *cuts, N]
    for n, w in enumerate(taken, 1):
        for first, last in itertools.pairwise(edges):
            part = slice(first, last)
            own = {name: slot[part] for name, slot in slots.items()}
            rule.take(average[part], w[part], own, n=n)
    return average


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NAMES)
def test_contract(name: str, dtype: type) -> None:
    rule, taken = make(name), weights(9, dtype)
    kept, kept_settings = copy.deepcopy(taken), copy.deepcopy(vars(rule))
    whole = averaged(rule, taken)
    assert whole.dtype == dtype
    for cuts in ((1,), (16, 32), (20, 36)):
        assert np.array_equal(averaged(rule, taken, *cuts), whole)
    assert all(map(np.array_equal, taken, kept))
    assert vars(rule) == kept_settings
    assert whole[-1] == 0
    # one is itself to the bit, whatever was in the buffer, and equal ones stay so
    assert np.array_equal(averaged(rule, taken[:1], start=7.0), taken[0])
    np.testing.assert_allclose(averaged(rule, [taken[0]] * 6), taken[0], rtol=1e-6)
    assert rule.interval(100) >= 1


def test_ema_is_the_corrected_moving_average() -> None:
    taken, decay = weights(30, np.float64), 0.9
    for n in (1, 2, 7, 30):
        moving = np.zeros(N)
        for w in taken[:n]:
            moving = decay * moving + (1 - decay) * w
        found = averaged(make("ema", decay=decay), taken[:n])
        np.testing.assert_allclose(found, moving / (1 - decay**n), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_lawa_is_the_mean_of_the_last(count: int) -> None:
    taken, rule = weights(12, np.float64), make("lawa", count=count, interval=4)
    for n in (1, 2, 5, 12):
        found = averaged(rule, taken[:n])
        np.testing.assert_allclose(found, np.mean(taken[max(0, n - count) : n], axis=0), rtol=1e-12)
    assert rule.interval(100) == 4
    assert make("lawa").interval(100) == 100
    assert make("ema").interval(100) == 1


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs.make_quick(monkeypatch, tmp_path / "cache")
    monkeypatch.chdir(tmp_path)


def trained(tmp_path: Path, averaging: Any, **others: Any) -> Any:
    """A run with an average, and the weights after each of its steps."""
    from bptool.training import begin
    from bptool.training.events import StepDone
    from bptool.training.run_folder import RunFolder

    values = runs.settings(runs.write_text(tmp_path), runs.GPT2, eval_interval=4)
    config = runs.config_of(values | {"averaging": averaging} | others)
    events: list[Any] = []
    history: list[Any] = []

    def keep(event: Any) -> None:
        if isinstance(event, StepDone):
            training.pieces.step.evaluation_params()
            history.append(training.pieces.step.evaluation_weights.copy())

    training = begin.start_run(config, RunFolder(tmp_path / "run"), [events.append, keep])
    training.run()
    training.pieces.close()
    return events, history


@pytest.mark.parametrize(
    "optimizer", [{"name": "adamw", "learning_rate": 0.01}, {"name": "schedule-free-adamw"}]
)
def test_a_run_keeps_the_average_of_the_weights_it_would_evaluate(
    tmp_path: Path, optimizer: Any
) -> None:
    averaging = {"name": "lawa", "count": 2, "interval": 3}
    events, history = trained(tmp_path, averaging, optimizer=optimizer)
    last = open_run(Path("run"), last=True)
    assert last.kind == "average"
    np.testing.assert_allclose(last.weights, (history[8] + history[11]) / 2, rtol=1e-5, atol=1e-7)
    raw = open_run(Path("run"), last=True, which="raw")
    assert (raw.kind, raw.step) == ("raw", 12)
    assert np.array_equal(raw.weights, history[11])
    evaluated = [event for event in events if isinstance(event, Evaluated)]
    assert [event.step for event in evaluated] == [4, 8, 12]
    assert all(event.average_val_loss is not None for event in evaluated)
    best = np.minimum.accumulate([event.judged_loss for event in evaluated])
    assert [e.is_best for e in evaluated] == [
        e.judged_loss == b and (i == 0 or b < best[i - 1])
        for i, (e, b) in enumerate(zip(evaluated, best, strict=True))
    ]
    saved = [event for event in events if isinstance(event, CheckpointSaved)]
    assert {path.name for path in Path(saved[-1].path).iterdir()} == {
        "weights.safetensors",
        "average.safetensors",
        "optimizer.safetensors",
        "state.json",
    }


def test_before_anything_is_taken_the_weights_themselves_stand_for_it(tmp_path: Path) -> None:
    events, history = trained(tmp_path, {"name": "lawa", "interval": 100})
    for event in events:
        if isinstance(event, Evaluated):
            assert event.average_val_loss == event.val_loss
    assert np.array_equal(open_run(Path("run"), last=True).weights, history[-1])


def test_eval_and_generate_take_either(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events, _ = trained(tmp_path, {"name": "ema", "decay": 0.9})
    last = [event for event in events if isinstance(event, Evaluated)][-1]

    def output(*arguments: str) -> Any:
        capsys.readouterr()
        assert main([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    found = {
        kind: output("eval", "run", "--last", "--weights", kind) for kind in ("raw", "average")
    }
    assert [found[kind]["weights"] for kind in found] == ["raw", "average"]
    assert found["raw"]["val_loss"] != found["average"]["val_loss"]
    assert output("eval", "run", "--last") == found["average"]
    # the run's own evaluations read 64 tokens only
    assert last.average_val_loss != last.val_loss
    written = {
        kind: output("generate", "run", "--weights", kind, "--max-tokens", "40")
        for kind in ("raw", "average")
    }
    assert written["average"] == output("generate", "run", "--max-tokens", "40")
    assert written["raw"]["samples"] != written["average"]["samples"]
    assert main(["eval", "run", "--last"]) == 0
    assert "at step 12, averaged" in capsys.readouterr().out
    assert main(["eval", "run", "--weights", "mean"]) == 2


def test_a_run_without_an_average_says_so(tmp_path: Path) -> None:
    runs.train(
        runs.config_of(runs.settings(runs.write_text(tmp_path), runs.MLP, steps=2)), Path("a")
    )
    assert open_run(Path("a")).kind == "raw"
    with pytest.raises(RunError, match="trained without an average of its weights"):
        open_run(Path("a"), which="average")


def test_an_unknown_average_is_named_with_the_nearest(tmp_path: Path) -> None:
    from bptool.errors import ConfigError

    values = runs.settings(tmp_path / "x.txt", runs.MLP) | {"averaging": {"name": "emma"}}
    with pytest.raises(ConfigError, match="unknown weight average 'emma'; did you mean 'ema'"):
        runs.config_of(values)
