"""``bptool train --plan``: its memory beside a real run's, and what is kept of the measurement."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import training_runs as runs
from hypothesis import given
from hypothesis import strategies as st

from bptool.errors import BptoolError
from bptool.models.mlp import MLP
from bptool.models.presets import GPT2
from bptool.ops.logit_terms import NO_TERMS, LogitTerms
from bptool.optim.adamw import AdamW
from bptool.optim.lamb import LAMB
from bptool.training.calibrate import measure_rates, measure_update
from bptool.training.cost import PassRate, Rates, TensorRuleRate
from bptool.training.machine import choose_engine
from bptool.training.measurements import Measurements
from bptool.training.plan import count_checkpoints
from bptool.training.small_run import run_small


def finish(*arguments: str) -> tuple[int, str, str]:
    process = runs.process(*arguments)
    out, err = process.communicate()
    return process.returncode, out, err


def test_a_plans_memory_is_what_a_run_takes(tmp_path: Path) -> None:
    model = {"name": "gpt2", "n_layer": 3, "n_head": 4, "n_embd": 256, "context": 128}
    values = runs.settings(runs.write_text(tmp_path, 2000), model, batch_size=8, steps=3)
    config = str(runs.write_config(tmp_path, values))
    code, out, err = finish("train", config, "--plan", "--json")
    assert code == 0, err
    plan = json.loads(out)
    parts = ("parameters", "gradients", "optimizer", "activations", "buffers", "program")
    assert plan["memory_bytes"] == sum(plan[f"{part}_bytes"] for part in parts)
    assert plan["memory_bytes"] > 1.2 * plan["program_bytes"]
    code, out, err = finish("train", config, "--out", str(tmp_path / "run"), "--json")
    assert code == 0, err
    peak = json.loads(out.splitlines()[-1])["peak_memory_bytes"]
    assert plan["memory_bytes"] == pytest.approx(peak, rel=0.1)


def test_a_model_that_no_memory_holds_is_refused_before_anything_is_measured(
    tmp_path: Path,
) -> None:
    config = str(runs.write_config(tmp_path, runs.settings(runs.write_text(tmp_path), runs.GPT2)))
    sets = ["--set", "model.n_layer=1000", "--set", "model.n_embd=65536"]
    code, out, err = finish("train", config, "--plan", *sets)
    assert (code, out) == (2, "")
    assert err.startswith("error: this needs ")
    assert "of memory and the machine has" in err
    assert "measuring" not in err


@pytest.fixture
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPTOOL_CACHE_DIR", str(tmp_path / "cache"))


def known(n_workers: int = 2, **values: Any) -> Measurements:
    return Measurements(choose_engine("auto"), n_workers, lambda what: None, **values)


@pytest.mark.usefixtures("_own_cache")
def test_what_is_measured_is_kept_for_its_machine_and_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.make_plans_quick(monkeypatch)
    first = known()
    rates = first.rates(MLP)
    assert {key.split()[0] for key in first.measured} == {"optimizer", "model"}
    again = known()
    assert again.rates(MLP) == rates
    assert again.measured == []
    again.update(LAMB(LAMB.Config()))
    assert len(again.measured) == 1
    again.update(LAMB(LAMB.Config(learning_rate=0.5)))  # costs the same
    again.update(AdamW(AdamW.Config()))
    assert len(again.measured) == 1
    again.rates(GPT2)
    again.small_run(GPT2)
    assert len(again.measured) == 3
    other = known(n_workers=1)
    other.rates(MLP)
    assert other.measured
    assert len(list((tmp_path / "cache" / "measurements").iterdir())) == 2


@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize("damage", ["{", "[]", '{"format_version": 1, "values": []}', "null"])
def test_a_damaged_file_is_measured_again(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.make_plans_quick(monkeypatch)
    known().rates(MLP)
    (path,) = (tmp_path / "cache" / "measurements").iterdir()
    kept = path.read_text(encoding="utf-8")
    path.write_text(damage, encoding="utf-8")
    known().rates(MLP)
    assert path.read_text(encoding="utf-8") == kept
    values = json.loads(kept)
    for key in values["values"]:
        values["values"][key].popitem()
    path.write_text(json.dumps(values), encoding="utf-8")
    known().rates(MLP)
    assert path.read_text(encoding="utf-8") == kept


@pytest.mark.usefixtures("_own_cache")
def test_measuring_again_does_so_once_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    runs.make_plans_quick(monkeypatch)
    known().rates(MLP)
    again = known(again=True)
    again.rates(MLP)
    again.rates(MLP)
    assert len(again.measured) == 2


@pytest.mark.usefixtures("_own_cache")
def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.make_plans_quick(monkeypatch)
    (tmp_path / "cache").write_text("a file", encoding="utf-8")
    for _ in range(2):
        one = known()
        one.rates(MLP)
        assert one.measured


def test_rates_of_small_models_are_numbers_that_json_keeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    references = [r for r in MLP.references() if r.model.n_parameters < 20_000]
    monkeypatch.setattr(MLP, "references", classmethod(lambda cls: references))
    engine, said = choose_engine("auto"), []
    update = measure_update(AdamW(AdamW.Config()), engine, 2)
    rates = measure_rates(MLP, engine, 2, update, said.append)
    assert "writing tokens" in said
    assert Rates.from_json(json.loads(json.dumps(rates.to_json()))) == rates
    for rate in rates.kernels.values():
        values = vars(rate).values()
        assert min(values) >= 0
        assert 0 < max(values) < math.inf
    terms = LogitTerms(label_smoothing=0.1, z_loss=1e-4)
    assert rates.kernels.keys() == {
        o.kernel
        for r in references
        for of in (NO_TERMS, terms)
        for o in r.model.operations(1, r.model.context, of)
    }
    for passes in (rates.clear, rates.add, rates.norm, update):
        assert isinstance(passes, PassRate)
        assert all(0 < seconds < 1e-6 for _, seconds in passes.samples)
    assert set(rates.overheads) == {"batch", "inside"}


def test_a_whole_tensor_rule_has_a_rate_for_its_cost_or_its_weights() -> None:
    rate = measure_update(LAMB(LAMB.Config()), choose_engine("auto"), 2)
    assert isinstance(rate, TensorRuleRate)
    assert max(rate.per_cost, rate.per_weight) > 0


def test_a_small_run_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MLP.references()[0].model
    with pytest.raises(BptoolError, match="no_such_plugin"):
        run_small(model, "auto", 1, ["no_such_plugin.py"])


@given(st.integers(1, 40), st.integers(1, 45), st.integers(1, 45))
def test_checkpoints_are_counted_as_the_loop_writes_them(
    steps: int, eval_interval: int, checkpoint_interval: int
) -> None:
    written = {
        step
        for step in range(1, steps + 1)
        if step % eval_interval == 0 or step == steps or step % checkpoint_interval == 0
    }
    assert count_checkpoints(steps, eval_interval, checkpoint_interval) == len(written)
