"""What a study is made of before it runs: names, rates, seeds, the length of a schedule."""

from __future__ import annotations

from pathlib import Path

import pytest

from bptool.comparison.budget import resolve_at
from bptool.comparison.results import ResultsFolder
from bptool.comparison.settings import (
    DEFAULT_OPTIMIZERS,
    LEARNING_RATES,
    choose,
    other_settings,
    parse_names,
    parse_rates,
)
from bptool.comparison.study import plan
from bptool.config.load import resolve
from bptool.config.schema import MAX_SEED, RunConfig
from bptool.errors import ConfigError, RunError
from bptool.registry import optimizers

YAML = """
model: mlp
data: {text: book.txt}
training: {steps: 1000, batch_size: 4, seed: 7, data_seed: 50, eval_interval: 200}
optimizer: {name: adamw, learning_rate: 0.004, weight_decay: 0.3}
schedule: {name: cosine, warmup_steps: 100}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(YAML, encoding="utf-8")
    return tmp_path / "config.yaml"


@pytest.fixture
def config(file: Path) -> RunConfig:
    return resolve(file).config


def test_names_are_split_and_checked() -> None:
    assert parse_names(" sgd, adam ,") == ["sgd", "adam"]
    assert parse_names(",".join(DEFAULT_OPTIMIZERS)) == list(DEFAULT_OPTIMIZERS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sgd,admw", "unknown optimizer 'admw'; did you mean 'adamw'?"),
        ("sgd,adam,sgd", "names 'sgd' 2 times"),
        (" , ", "names none; give some of: adam, adamw"),
    ],
)
def test_wrong_names_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")) as error:
        parse_names(text)
    assert "\n" not in str(error.value)


def test_rates_are_read() -> None:
    assert parse_rates(["adam=1e-3", "sgd = 0.5"], ["sgd", "adam"]) == {"adam": 1e-3, "sgd": 0.5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["adam"], "need name=value, as in adam=1e-3"),
        (["=3"], "need name=value"),
        (["adamw=1"], "'adamw' is not one of --optimizers; did you mean 'adam'"),
        (["adam=fast"], "'fast' is not a number"),
        (["adam=1", "adam=2"], "'adam' has a rate already"),
    ],
)
def test_wrong_rates_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_rates(arguments, ["sgd", "adam"])


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_no_rule_takes_names_the_option(config: RunConfig, rate: float) -> None:
    with pytest.raises(ConfigError, match=r"'adam', learning_rate: .*--learning-rate adam=") as e:
        choose("adam", config, {"adam": rate})
    assert "\n" not in str(e.value)


def test_only_the_configured_optimizer_keeps_the_configured_settings(config: RunConfig) -> None:
    own, other = choose("adamw", config, {}), choose("adam", config, {})
    assert own == config.optimizer
    assert other_settings(own) == {"weight_decay": 0.3}
    assert other.config.learning_rate == LEARNING_RATES["adam"]
    assert other_settings(other) == {}
    assert choose("adamw", config, {"adamw": 1.0}).dump() == {**own.dump(), "learning_rate": 1.0}


def test_every_listed_rate_is_of_a_known_optimizer() -> None:
    assert set(LEARNING_RATES) <= set(optimizers.names())
    assert set(DEFAULT_OPTIMIZERS) <= set(LEARNING_RATES)


def test_trials_are_paired_seed_by_seed(config: RunConfig) -> None:
    trials = plan(config, ["sgd", "adam"], 3, {})
    assert [(trial.optimizer, trial.seed) for trial in trials] == [
        *(("sgd", 7), ("adam", 7)),
        *(("sgd", 8), ("adam", 8)),
        *(("sgd", 9), ("adam", 9)),
    ]
    assert [trial.config.training.data_seed for trial in trials] == [50, 50, 51, 51, 52, 52]
    # Within a seed nothing but the optimizer differs.
    for sgd, adam in zip(trials[::2], trials[1::2], strict=True):
        differs = {"optimizer": adam.config.optimizer}
        assert sgd.config.model_copy(update=differs) == adam.config


def test_seeds_past_the_largest_are_refused(config: RunConfig) -> None:
    training = config.training.model_copy(update={"data_seed": MAX_SEED - 1})
    last = config.model_copy(update={"training": training})
    assert len(plan(last, ["sgd"], 2, {})) == 2
    with pytest.raises(ConfigError, match="3 seeds"):
        plan(last, ["sgd"], 3, {})


def test_what_the_file_counts_in_steps_shrinks_with_them(file: Path) -> None:
    found = resolve_at(file, steps=100)
    assert found.config.training.steps == 100
    assert found.scaled == {"training.eval_interval": (200, 20), "schedule.warmup_steps": (100, 10)}
    assert found.config.training.eval_interval == 20
    assert found.config.schedule.config.warmup_steps == 10
    least = resolve_at(file, steps=2)
    assert least.config.schedule.config.warmup_steps == 1


def test_what_the_command_line_says_does_not_shrink(file: Path) -> None:
    found = resolve_at(file, ["schedule.warmup_steps=90", "training.eval_interval=5"], steps=100)
    assert found.scaled == {}
    assert found.config.schedule.config.warmup_steps == 90
    assert found.config.training.eval_interval == 5


def test_without_steps_the_configuration_is_as_it_is(file: Path) -> None:
    assert resolve_at(file).config == resolve(file).config
    assert resolve_at(file, ["training.steps=50"]).config.training.steps == 50
    with pytest.raises(ConfigError, match="keep one"):
        resolve_at(file, ["training.steps=50"], steps=60)


def test_a_folder_with_anything_in_it_is_refused(tmp_path: Path, file: Path) -> None:
    with pytest.raises(RunError, match="is not empty; choose another folder with --out"):
        ResultsFolder(tmp_path).require_free()
    with pytest.raises(RunError, match="is a file"):
        ResultsFolder(file).require_free()
    ResultsFolder(tmp_path / "new").require_free()
    assert not (tmp_path / "new").exists()


def test_a_replay_loads_the_plugins(config: RunConfig, tmp_path: Path) -> None:
    (trial,) = plan(config, ["adam"], 1, {})
    command = ResultsFolder(Path("my study"), ["rules.py"]).replay_command(trial)
    assert command.startswith("bptool train 'my study")
    assert command.endswith("--plugin rules.py")
