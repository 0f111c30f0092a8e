"""What a study is made of before it runs: its file, settings, spaces, seeds, trials."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptool.comparison.budget import resolve_at
from bptool.comparison.ground import survey
from bptool.comparison.plan import Plan, Workload, choice_of, make_plan, make_trial, pending
from bptool.comparison.records import Record
from bptool.comparison.results import ResultsFolder
from bptool.comparison.settings import (
    DEFAULT_OPTIMIZERS,
    LEARNING_RATES,
    choose,
    other_settings,
    parse_names,
    parse_rates,
)
from bptool.comparison.spaces import at_edge, draw, joined, shipped, space_of
from bptool.comparison.terms import rules
from bptool.config.load import read_study, resolve, to_yaml
from bptool.config.schema import RunConfig
from bptool.config.study_section import RangeConfig, StudyConfig, check_space
from bptool.errors import ConfigError, RunError
from bptool.registry import optimizers

YAML = """
model: mlp
data: {text: book.txt}
training: {steps: 1000, batch_size: 4, seed: 7, data_seed: 50, eval_interval: 200}
optimizer: {name: adamw, learning_rate: 0.004, weight_decay: 0.3}
schedule: {name: cosine, warmup_steps: 100}
"""
STUDY = """\
workloads:
  - config: config.yaml
optimizers: [adamw, sgd]
ruleset: tuned
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(YAML, encoding="utf-8")
    return tmp_path / "config.yaml"


@pytest.fixture
def config(file: Path) -> RunConfig:
    return resolve(file).config


def study(**values: Any) -> StudyConfig:
    return read_study(
        None, (), {"workloads": [{"config": "config.yaml"}], "optimizers": ["adamw"], **values}
    ).config


def record(trial: Any, loss: float, status: str = "completed") -> Record:
    return Record(
        name=trial.name,
        phase=trial.phase,
        workload=trial.workload,
        optimizer=trial.optimizer,
        number=trial.number,
        settings=trial.config.optimizer.dump(),
        seed=trial.seed,
        status=status,  # type: ignore[arg-type]
        curve=(),
        final_loss=loss,
    )


def test_names_are_split_and_checked() -> None:
    assert parse_names(" sgd, adam ,") == ["sgd", "adam"]
    assert parse_names(",".join(DEFAULT_OPTIMIZERS)) == list(DEFAULT_OPTIMIZERS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sgd,admw", "unknown optimizer 'admw'; did you mean 'adamw'?"),
        ("sgd,adam,sgd", "names 'sgd' 2 times"),
        (" , ", "names none; give some of: "),
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
        (["adam=0"], "need a number above 0"),
        (["adam=nan"], "need a number above 0"),
        (["adam=inf"], "need a number above 0"),
    ],
)
def test_wrong_rates_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_rates(arguments, ["sgd", "adam"])


def test_only_the_configured_optimizer_keeps_the_configured_settings(config: RunConfig) -> None:
    own, other = choose("adamw", config, {}), choose("adam", config, {})
    assert own == config.optimizer
    assert other_settings(own) == {"weight_decay": 0.3}
    assert other.config.learning_rate == LEARNING_RATES["adam"]
    assert other_settings(other) == {}
    assert choose("adamw", config, {"learning_rate": 1.0}).dump() == {
        **own.dump(),
        "learning_rate": 1.0,
    }
    assert choose("adamw", None, {}).config.weight_decay == 0.01
    with pytest.raises(ConfigError, match=r"optimizer 'adam', beta1: .*found 2"):
        choose("adam", None, {"beta1": 2.0})


def test_every_listed_rate_is_of_a_known_optimizer() -> None:
    assert set(LEARNING_RATES) <= set(optimizers.names())
    assert set(DEFAULT_OPTIMIZERS) <= set(LEARNING_RATES)


@pytest.mark.parametrize("name", sorted(set(shipped()) & set(optimizers.names())))
def test_every_shipped_space_fits_its_optimizer(name: str) -> None:
    check_space(name, shipped()[name], name)
    assert "learning_rate" in shipped()[name]
    for settings in draw(shipped()[name], 20):
        choose(name, None, settings)


def test_every_optimizer_of_ours_has_a_space() -> None:
    ours = {name for name in optimizers.names() if optimizers.get(name).__module__[:7] == "bptool."}
    assert ours <= set(shipped())


def test_points_are_spread_and_the_same_for_all() -> None:
    space = {"learning_rate": RangeConfig(low=1e-4, high=1.0)}
    points = [point["learning_rate"] for point in draw(space, 16)]
    assert points[:4] == [point["learning_rate"] for point in draw(space, 4)]
    # Quasi-random: of 16 points, 4 lie in each fourth of the logarithmic range.
    fourths = [int(math.log10(point / 1e-4)) for point in points]
    assert sorted(fourths) == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    other = {"beta1": RangeConfig(low=0.0, high=0.9, scale="one-minus-log")}
    u = [space["learning_rate"].position(point) for point in points]
    v = [other["beta1"].position(point["beta1"]) for point in draw(other, 16)]
    assert v == pytest.approx(u, abs=2e-3)
    assert {p["nesterov"] for p in draw({"nesterov": [True, False]}, 8)} == {True, False}


RANGES = st.sampled_from(
    [
        RangeConfig(low=1e-5, high=3.0),
        RangeConfig(low=-2.0, high=5.0, scale="linear"),
        RangeConfig(low=0.5, high=0.999, scale="one-minus-log"),
    ]
)


@given(RANGES, st.floats(0, 1))
def test_a_position_is_where_its_value_came_from(where: RangeConfig, u: float) -> None:
    value = where.value(u)
    assert where.low - 1e-9 <= value <= where.high + 1e-9
    assert where.position(value) == pytest.approx(u, abs=1e-9)


def test_an_edge_is_met_with_a_wider_range() -> None:
    space = {
        "learning_rate": RangeConfig(low=1e-4, high=1e-1),
        "beta1": RangeConfig(low=0.8, high=0.98, scale="one-minus-log"),
        "nesterov": [True, False],
    }
    inside = {"learning_rate": 1e-2, "beta1": 0.9, "nesterov": True}
    assert at_edge("nadamw", space, inside) == {}
    found = at_edge("nadamw", space, {**inside, "learning_rate": 0.09})
    assert found == {"learning_rate": RangeConfig(low=1e-4, high=1.0)}
    found = at_edge("nadamw", space, {**inside, "learning_rate": 1.1e-4, "beta1": 0.979})
    assert found["learning_rate"] == RangeConfig(low=1e-5, high=0.1)
    assert found["beta1"].high == pytest.approx(0.998)
    assert at_edge("nadamw", space, {**inside, "beta1": 0.8})["beta1"].low == 0.0
    # Beyond its own bounds an optimizer has nothing to search.
    linear = {"beta1": RangeConfig(low=0.1, high=0.9, scale="linear")}
    assert at_edge("nadamw", linear, {"beta1": 0.89}) == {}
    assert joined(RangeConfig(low=1, high=5), RangeConfig(low=2, high=9)) == RangeConfig(
        low=1, high=9
    )


def test_what_is_fixed_is_not_searched() -> None:
    assert "weight_decay" not in space_of("adamw", {}, {"weight_decay": 0.1})
    with pytest.raises(ConfigError, match="fix all that its space searches"):
        space_of("sgd", {}, {"learning_rate": 0.1})
    with pytest.raises(ConfigError, match=r"no search space for 'mine'; add spaces: {mine"):
        space_of("mine", {}, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (STUDY.replace("sgd", "admw"), ":3: optimizers.1: unknown optimizer 'admw'; did you mean"),
        (STUDY.replace("sgd", "adamw"), ":3: optimizers.1: 'adamw' is given twice"),
        (STUDY + "spaces: {sgd: {}}\n", ":5: spaces.sgd: an empty search space"),
        (STUDY + "spaces: {sgd: {rate: {low: 1, high: 2}}}\n", ":5: spaces.sgd.rate: sgd has no"),
        (
            STUDY + "spaces:\n  sgd: {learning_rate: {low: 2, high: 1}}\n",
            ":6: spaces.sgd.learning_rate.high: an empty range",
        ),
        (
            STUDY + "spaces:\n  sgd: {learning_rate: {low: -1, high: 1, scale: linear}}\n",
            ":6: spaces.sgd.learning_rate: found -1.0; sgd: input should be greater than 0",
        ),
        (STUDY + "spaces: {adam: {}}\n", ":5: spaces.adam: 'adam' takes no part"),
        (STUDY + "tuning: {budget: 1}\n", ":5: tuning.budget: 1 trials cannot be shared by 2"),
        (STUDY + "tuning: {trials: 2, budget: 4}\n", ":5: tuning.budget: given beside"),
        (STUDY + "tuning: {first_seed: 3}\n", ":5: tuning.first_seed: tuning's seeds 3 to 3 and"),
        (
            STUDY.replace("tuned", "defaults") + "tuning: {trials: 2}\n",
            ":5: tuning: mixed rulesets: 'defaults' tunes nothing",
        ),
        (STUDY.replace("tuned", "[tuned, defaults]"), ":4: ruleset: found a list, need"),
        (
            STUDY + "settings: {sgd: {learning_rate: 1}}\n",
            ":5: settings.sgd.learning_rate: mixed rulesets: 'tuned' searches",
        ),
        (STUDY + "settings: {sgd: {beta: 1}}\n", ":5: settings.sgd.beta: sgd has no such setting"),
        (
            STUDY + "schedules: {adam: constant}\n",
            ":5: schedules.adam: 'adam' takes no part; did you mean 'adamw'?",
        ),
        (
            STUDY + "schedules: {sgd: cosin}\n",
            ":5: schedules.sgd.name: unknown schedule 'cosin'; did you mean 'cosine'?",
        ),
        (STUDY + "reference: adam\n", ":5: reference: 'adam' takes no part; did you mean 'adamw'"),
        (STUDY + "seeds: 3\n", ":5: seeds: unknown key"),
        (
            STUDY.replace("optimizers", "  - config: config.yaml\noptimizers"),
            ":3: workloads.1: a second workload 'config'; give one a name",
        ),
    ],
)
def test_a_wrong_study_is_one_line_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        read_study(path)
    assert f"{path}{message}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("missing.yaml", r"study.yaml:2: workload 'missing' cannot run: .*missing.yaml: no such"),
        ("config.yaml", r"study.yaml:2: workload 'config' cannot run: .*book.txt"),
    ],
)
def test_a_workload_that_cannot_run_is_named(
    tmp_path: Path, file: Path, config: str, message: str
) -> None:
    (tmp_path / "study.yaml").write_text(STUDY.replace("config.yaml", config), encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as error:
        survey(read_study(tmp_path / "study.yaml"))
    assert "\n" not in str(error.value)


def test_a_test_that_cannot_reject_is_refused(config: RunConfig) -> None:
    workload = Workload("w", config)
    wanted = {"optimizers": ["adamw", "sgd"], "test": "wilcoxon"}
    with pytest.raises(ConfigError, match=r"cannot reject at 5 seeds.*0\.062.*final.seeds: 6"):
        make_plan(study(**wanted), [workload])
    make_plan(study(**wanted, final={"seeds": 6}), [workload])


def test_a_budget_is_shared_equally() -> None:
    wanted = study(optimizers=["adamw", "sgd", "adam"], ruleset="tuned", tuning={"budget": 10})
    assert wanted.n_candidates == 3
    assert study(ruleset="tuned").n_candidates == 8
    assert study().n_candidates == 1


def plan_of(config: RunConfig, **values: Any) -> Plan:
    return make_plan(study(**values), [Workload("w", config)])


def test_trials_are_paired_seed_by_seed(config: RunConfig) -> None:
    seeds = {"seeds": 3, "first_seed": 7, "first_data_seed": 50}
    plan = plan_of(config, optimizers=["sgd", "adam"], final=seeds)
    trials = list(pending(plan, []))
    assert len(trials) == plan.n_trials
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


def test_the_best_candidate_runs_again_with_fresh_seeds(config: RunConfig) -> None:
    plan = plan_of(
        config,
        optimizers=["adamw", "sgd"],
        ruleset="tuned",
        tuning={"trials": 3, "seeds": 2, "first_seed": 100},
        final={"seeds": 2},
    )
    tuning = list(pending(plan, []))
    assert len(tuning) == 2 * 3 * 2
    assert {trial.seed for trial in tuning} == {100, 101}
    assert len({trial.config.optimizer.config.learning_rate for trial in tuning}) == 6
    # Candidate 1 of sgd has the lowest mean, though 0 has the lowest single loss.
    losses = {("sgd", 0): (1.0, math.inf), ("sgd", 1): (2.0, 2.2), ("sgd", 2): (2.0, 2.3)}
    ended = [
        record(t, losses.get((t.optimizer, t.number), (9.0, 9.0))[t.seed - 100]) for t in tuning
    ]
    (workload,) = plan.workloads
    by_name = {r.name: r for r in ended}
    assert choice_of(plan, workload, "sgd", by_name) == 1
    assert choice_of(plan, workload, "adamw", by_name) == 0
    final = list(pending(plan, ended))
    assert [(t.optimizer, t.number, t.seed) for t in final] == [
        ("adamw", 0, 0), ("sgd", 1, 0), ("adamw", 0, 1), ("sgd", 1, 1),
    ]  # fmt: skip
    assert final[1].config.optimizer == tuning[-5].config.optimizer
    assert len(tuning) + len(final) == plan.n_trials
    # While one is missing nothing can be chosen; where all diverge nothing is left to run.
    assert choice_of(plan, workload, "sgd", {r.name: r for r in ended[:-1]}) is None
    lost = [record(t, math.inf, "diverged") for t in tuning]
    assert list(pending(plan, lost)) == []


def test_an_optimizer_may_have_a_schedule_of_its_own(config: RunConfig) -> None:
    own = {"name": "constant", "warmup_steps": 20}
    plan = plan_of(config, optimizers=["adamw", "sgd"], schedules={"adamw": own})
    adamw, sgd = list(pending(plan, []))[:2]
    assert adamw.config.schedule.dump() == own
    assert sgd.config.schedule == config.schedule
    assert "adamw has a schedule of its own: constant {warmup_steps: 20}." in list(rules(plan))


def test_a_rule_that_averages_its_weights_keeps_the_warm_up_alone(config: RunConfig) -> None:
    name = "schedule-free-adamw"
    plan = plan_of(config, optimizers=[name, "sgd"])
    trials = {trial.optimizer: trial.config.schedule for trial in pending(plan, [])}
    assert trials[name].dump() == {"name": "constant", "warmup_steps": 100}
    assert trials["sgd"].dump()["name"] == "cosine"
    (line,) = [line for line in rules(plan) if line.startswith(name)]
    assert "constant {warmup_steps: 100}, since it averages its weights" in line
    cosine = config.schedule.dump()
    plan = plan_of(config, optimizers=[name], schedules={name: cosine})
    assert next(iter(pending(plan, []))).config.schedule == config.schedule
    assert not any(line.startswith(name) for line in rules(plan))


def test_a_study_survives_writing_with_all_its_defaults(tmp_path: Path) -> None:
    for values in ({}, {"ruleset": "tuned", "spaces": {"adamw": {"beta1": [0.8, 0.9]}}}):
        config = study(**values)
        (tmp_path / "study.yaml").write_text(to_yaml(config), encoding="utf-8")
        assert read_study(tmp_path / "study.yaml").config == config


def test_a_failed_trial_is_pending_again(config: RunConfig) -> None:
    plan = plan_of(config, final={"seeds": 2})
    first, second = pending(plan, [])
    ended = [record(first, math.inf, "failed"), record(second, math.inf, "diverged")]
    assert [trial.name for trial in pending(plan, ended)] == [first.name]


def test_seeds_past_the_largest_are_refused() -> None:
    assert study(final={"seeds": 2, "first_data_seed": 2**63 - 2})
    with pytest.raises(ConfigError, match=r"final\.seeds: seeds up to"):
        study(final={"seeds": 3, "first_data_seed": 2**63 - 2})


def test_what_the_file_counts_in_steps_shrinks_with_them(file: Path) -> None:
    found = resolve_at(file, steps=100)
    assert found.config.training.steps == 100
    assert found.scaled == {"training.eval_interval": (200, 20), "schedule.warmup_steps": (100, 10)}
    assert found.config.training.eval_interval == 20
    assert found.config.schedule.config.warmup_steps == 10
    least = resolve_at(file, steps=2)
    assert least.config.schedule.config.warmup_steps == 1
    file.write_text(YAML + "averaging: {name: lawa, interval: 50}\n", encoding="utf-8")
    averaged = resolve_at(file, steps=100)
    assert averaged.scaled["averaging.interval"] == (50, 5)
    assert averaged.config.averaging.config.interval == 5


def test_what_the_command_line_says_does_not_shrink(file: Path) -> None:
    found = resolve_at(file, ["schedule.warmup_steps=90", "training.eval_interval=5"], steps=100)
    assert found.scaled == {}
    assert found.config.schedule.config.warmup_steps == 90
    assert found.config.training.eval_interval == 5


def test_without_steps_the_configuration_is_as_it_is(file: Path) -> None:
    assert resolve_at(file).config == resolve(file).config
    assert resolve_at(file, ["training.steps=500"]).config.training.steps == 500
    with pytest.raises(ConfigError, match="keep one"):
        resolve_at(file, ["training.steps=500"], steps=60)


def test_a_folder_with_anything_in_it_is_refused(tmp_path: Path, file: Path) -> None:
    with pytest.raises(RunError, match="is not empty; choose another folder with --out"):
        ResultsFolder(tmp_path).require_free()
    with pytest.raises(RunError, match="is a file"):
        ResultsFolder(file).require_free()
    ResultsFolder(tmp_path / "new").require_free()
    assert not (tmp_path / "new").exists()


def test_a_replay_loads_the_plugins(config: RunConfig) -> None:
    plan = plan_of(config)
    trial = make_trial(plan, "final", plan.workloads[0], "adamw", 0, 0)
    command = ResultsFolder(Path("my study"), ["rules.py"]).replay_command(trial)
    assert command.startswith("bptool train 'my study")
    assert command.endswith("--plugin rules.py")
