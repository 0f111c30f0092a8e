"""Schedules against PyTorch's schedulers, closed forms, nanoGPT's rule, and their docstrings."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bptool.comparison.budget import counts_steps, resolve_at
from bptool.config.load import resolve
from bptool.errors import ConfigError
from bptool.registry import schedules

NAMES = schedules.names()


def make(name: str, **options: Any) -> Any:
    cls = schedules.get(name)
    return cls(cls.Config(**options))


def factors(name: str, n_steps: int, **options: Any) -> list[float]:
    """The factor at every step of a run."""
    schedule = make(name, **options)
    return [schedule.factor(step, n_steps) for step in range(1, n_steps + 1)]


# --- PyTorch ---------------------------------------------------------------------------------


class Reference(NamedTuple):
    """A schedule and PyTorch's scheduler over a whole run."""

    name: str
    options: dict[str, Any]
    n_steps: int
    scheduler: str
    settings: dict[str, Any]


REFERENCES = [
    Reference("linear", {}, 500, "LinearLR", {
        "start_factor": 1.0, "end_factor": 0.0, "total_iters": 500}),
    Reference("linear", {"decay_steps": 130, "final_fraction": 0.2}, 300, "LinearLR", {
        "start_factor": 1.0, "end_factor": 0.2, "total_iters": 130}),
    Reference("constant", {"warmup_steps": 8}, 20, "LinearLR", {
        "start_factor": 1 / 9, "total_iters": 8}),
    Reference("cosine", {}, 500, "CosineAnnealingLR", {"T_max": 500, "eta_min": 0.1}),
    Reference("cosine", {"final_fraction": 0.0}, 777, "CosineAnnealingLR", {"T_max": 777}),
    Reference("cosine-restarts", {"cycle_steps": 50, "cycle_growth": 1}, 512,
              "CosineAnnealingWarmRestarts", {"T_0": 50, "T_mult": 1}),
    Reference("cosine-restarts", {"cycle_steps": 7, "cycle_growth": 2, "final_fraction": 0.05},
              1000, "CosineAnnealingWarmRestarts", {"T_0": 7, "T_mult": 2, "eta_min": 0.05}),
    Reference("cosine-restarts", {"cycle_steps": 1, "cycle_growth": 3}, 400,
              "CosineAnnealingWarmRestarts", {"T_0": 1, "T_mult": 3}),
    Reference("one-cycle", {}, 1000, "OneCycleLR", {"total_steps": 1000}),
    Reference("one-cycle", {"anneal": "linear", "rise_fraction": 0.45, "start_fraction": 0.1,
                            "final_fraction": 0.001}, 333, "OneCycleLR", {
        "total_steps": 333, "anneal_strategy": "linear", "pct_start": 0.45, "div_factor": 10,
        "final_div_factor": 100}),
    Reference("one-cycle", {"three_phases": True}, 250, "OneCycleLR", {
        "total_steps": 250, "three_phase": True}),
    Reference("one-cycle", {"three_phases": True, "anneal": "linear", "rise_fraction": 0.5}, 64,
              "OneCycleLR", {"total_steps": 64, "three_phase": True, "pct_start": 0.5,
                             "anneal_strategy": "linear"}),
    Reference("one-cycle", {}, 2, "OneCycleLR", {"total_steps": 2}),
    Reference("polynomial", {}, 400, "PolynomialLR", {"total_iters": 400}),
    Reference("polynomial", {"power": 2.5, "decay_steps": 300}, 400, "PolynomialLR", {
        "total_iters": 300, "power": 2.5}),
    Reference("polynomial", {"power": 0.5}, 400, "PolynomialLR", {
        "total_iters": 400, "power": 0.5}),
    Reference("step", {"every_steps": 30}, 200, "StepLR", {"step_size": 30}),
    Reference("step", {"milestone_steps": [3, 50, 50, 120], "gamma": 0.5}, 200, "MultiStepLR", {
        "milestones": [3, 50, 50, 120], "gamma": 0.5}),
    Reference("step", {}, 200, "MultiStepLR", {"milestones": [100, 150]}),
]  # fmt: skip


@pytest.mark.parametrize("reference", REFERENCES, ids=lambda r: f"{r.name}-{r.scheduler}")
def test_equals_torch_over_a_whole_run(reference: Reference) -> None:
    """Our step s, from 1, is PyTorch's ``last_epoch`` s - 1."""
    torch = pytest.importorskip("torch", reason="torch is not installed; see CONTRIBUTING.md")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    options = dict(reference.settings)
    if reference.scheduler == "OneCycleLR":
        options |= {"max_lr": 1.0, "cycle_momentum": False}
    scheduler = getattr(torch.optim.lr_scheduler, reference.scheduler)(optimizer, **options)
    for found in factors(reference.name, reference.n_steps, **reference.options):
        # absolute: what a cosine near -1 loses by adding 1, where the end value is 0
        assert found == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12, abs=1e-15)
        optimizer.step()
        if scheduler.last_epoch < reference.n_steps - 1:
            scheduler.step()


# --- closed forms ----------------------------------------------------------------------------


def nanogpt_rate(
    it: int, learning_rate: float, min_lr: float, warmup_iters: int, lr_decay_iters: int
) -> float:
    """The learning rate of nanoGPT's training script at iteration ``it`` (from 0)."""
    if it < warmup_iters:
        return learning_rate * (it + 1) / (warmup_iters + 1)
    if it > lr_decay_iters:
        return min_lr
    ratio = (it - warmup_iters) / (lr_decay_iters - warmup_iters)
    return min_lr + 0.5 * (1.0 + math.cos(math.pi * ratio)) * (learning_rate - min_lr)


@pytest.mark.parametrize(
    ("n_steps", "warmup", "decay", "fraction"),
    [(2000, 100, 2000, 0.1), (5000, 100, 5000, 0.1), (50, 0, 30, 0.0), (20, 19, 20, 0.5)],
)
def test_cosine_is_the_rule_of_nanogpt(
    n_steps: int, warmup: int, decay: int, fraction: float
) -> None:
    schedule = make("cosine", warmup_steps=warmup, decay_steps=decay, final_fraction=fraction)
    for step in range(1, n_steps + 1):
        expected = nanogpt_rate(step - 1, 1e-3, fraction * 1e-3, warmup, decay)
        assert 1e-3 * schedule.factor(step, n_steps) == pytest.approx(
            expected, rel=1e-12, abs=1e-18
        )


def test_cosine_by_hand() -> None:
    schedule = make("cosine", warmup_steps=3, final_fraction=0.2)
    found = [schedule.factor(step, 11) for step in range(1, 12)]
    assert found[:4] == [0.25, 0.5, 0.75, 1.0]
    assert found[7] == pytest.approx(0.6)  # half-way down, at 4 of 8 steps
    assert found[10] == pytest.approx(0.2 + 0.4 * (1 + math.cos(math.pi * 7 / 8)))
    assert schedule.factor(12, 11) == schedule.factor(100, 11) == 0.2


@pytest.mark.parametrize("name", ["cosine", "linear", "polynomial"])
def test_a_decay_is_over_the_run_unless_told(name: str) -> None:
    assert (
        factors(name, 40, warmup_steps=2) == factors(name, 99, warmup_steps=2, decay_steps=40)[:40]
    )


def test_inverse_sqrt_is_the_rule_of_the_transformer() -> None:
    """lr = d^-0.5 min(step^-0.5, step warmup^-1.5), whose peak is d^-0.5 warmup^-0.5."""
    warmup, peak = 40, 40**-0.5
    found = factors("inverse-sqrt", 1000, warmup_steps=warmup)
    # our warm-up reaches the peak one step later (nanoGPT's), so ours at s is theirs at s - 1
    for step in range(warmup, 1000):
        expected = min(step**-0.5, step * warmup**-1.5) / peak
        assert found[step] == pytest.approx(expected, rel=1e-12)


def test_inverse_sqrt_by_its_timescale() -> None:
    assert factors("inverse-sqrt", 9)[::3] == pytest.approx([1, 4**-0.5, 7**-0.5], rel=1e-12)
    slow = factors("inverse-sqrt", 500, warmup_steps=10, timescale_steps=100)
    assert slow[10] == 1.0
    assert slow[10 + 300] == pytest.approx(0.5, rel=1e-12)


DOWN: dict[str, Callable[[float], float]] = {
    "linear": lambda r: 1 - r,
    "cosine": lambda r: math.cos(math.pi * r / 2) ** 2,
    "1-sqrt": lambda r: 1 - r**0.5,
}


@pytest.mark.parametrize("shape", DOWN)
@pytest.mark.parametrize("end", [0.0, 0.25])
def test_warmup_stable_decay_in_three_parts(shape: str, end: float) -> None:
    options = {"cooldown": shape, "final_fraction": end}
    found = factors("warmup-stable-decay", 100, warmup_steps=4, cooldown_steps=30, **options)
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0], rel=1e-12)
    assert set(found[4:70]) == {1.0}
    for done in range(70, 100):
        expected = end + (1 - end) * DOWN[shape]((done - 70) / 30)
        assert found[done] == pytest.approx(expected, rel=1e-12)
    assert found[71] < 1.0
    fifth = factors("warmup-stable-decay", 100, warmup_steps=4, **options)
    assert [factor < 1 for factor in fifth].index(True, 5) == 81


def test_warmup_stable_decay_of_the_default_shape_is_that_of_its_paper() -> None:
    assert factors("warmup-stable-decay", 50)[45] == pytest.approx(1 - 0.5**0.5)


def test_cycles_fill_the_run() -> None:
    """1 + 2 + 4 sevenths, by default; the end value after the last step."""
    found = factors("cosine-restarts", 77, warmup_steps=7)
    whole = [step for step, factor in enumerate(found) if factor == 1.0]
    assert whole == [7, 17, 37]
    one = make("cosine-restarts", n_cycles=1, final_fraction=0.1)
    cosine = make("cosine", final_fraction=0.1)
    assert [one.factor(s, 30) for s in range(1, 33)] == [cosine.factor(s, 30) for s in range(1, 33)]
    equal = factors("cosine-restarts", 30, n_cycles=3, cycle_growth=1)
    assert equal[:10] == equal[10:20] == equal[20:]


@given(
    first=st.integers(1, 50), growth=st.floats(1, 3), warmup=st.integers(0, 30),
    n_cycles=st.integers(1, 6),
)  # fmt: skip
def test_cycles_begin_where_the_lengths_add_up(
    first: int, growth: float, warmup: int, n_cycles: int
) -> None:
    starts = [warmup + math.floor(first * sum(growth**j for j in range(i)) + 0.5 + 1e-9)
              for i in range(n_cycles)]  # fmt: skip
    schedule = make("cosine-restarts", warmup_steps=warmup, cycle_steps=first, cycle_growth=growth)
    for start in starts:
        found = schedule.factor(start + 1, 10**6)
        # a sum that ends in a half may be rounded to the step after
        assert 1.0 in (found, schedule.factor(start, 10**6))


def test_one_cycle_after_a_warmup_to_its_start() -> None:
    found = factors("one-cycle", 104, warmup_steps=4)
    assert found[4:] == factors("one-cycle", 100)
    assert found[:4] == pytest.approx([0.008, 0.016, 0.024, 0.032])


@pytest.mark.parametrize("three", [True, False])
@pytest.mark.parametrize("n_steps", range(1, 12))
def test_one_cycle_of_few_steps_ends_as_said(n_steps: int, three: bool) -> None:
    """Where PyTorch divides by zero too: a rise of one step."""
    for rise in (0.1, 0.25, 0.5):
        found = factors("one-cycle", n_steps, rise_fraction=rise, three_phases=three)
        assert found[-1] == pytest.approx(0.04 / 1e4, rel=1e-12)
        assert all(0 < factor <= 1 for factor in found)


def test_constant_is_one() -> None:
    assert set(factors("constant", 9)) == {1.0}


def test_milestones_count_from_the_start_and_lengths_from_the_warmup() -> None:
    at = factors("step", 60, warmup_steps=10, milestone_steps=[10, 40], gamma=0.5)
    assert (at[10], at[39], at[40]) == (0.5, 0.5, 0.25)
    assert at[0] == pytest.approx(0.5 / 11)
    every = factors("step", 60, warmup_steps=10, every_steps=25, gamma=0.5)
    assert (every[34], every[35], every[59]) == (1.0, 0.5, 0.5)


# --- every schedule --------------------------------------------------------------------------

FRACTION = st.floats(0, 1)
LENGTH = st.integers(1, 400)
OPTIONS: dict[str, dict[str, Any]] = {
    "constant": {},
    "linear": {"decay_steps": LENGTH, "final_fraction": FRACTION},
    "cosine": {"decay_steps": LENGTH, "final_fraction": FRACTION},
    "polynomial": {
        "decay_steps": LENGTH, "final_fraction": FRACTION, "power": st.floats(0.1, 9)
    },
    "cosine-restarts": {
        "cycle_steps": LENGTH, "n_cycles": st.integers(1, 5), "cycle_growth": st.floats(1, 4),
        "final_fraction": FRACTION,
    },
    "inverse-sqrt": {"timescale_steps": LENGTH},
    "warmup-stable-decay": {
        "cooldown_steps": LENGTH, "cooldown": st.sampled_from(sorted(DOWN)),
        "final_fraction": FRACTION,
    },
    "one-cycle": {
        "rise_fraction": st.floats(0.01, 0.99), "start_fraction": FRACTION,
        "final_fraction": FRACTION, "anneal": st.sampled_from(["cosine", "linear"]),
        "three_phases": st.booleans(),
    },
    "step": {
        "milestone_steps": st.lists(LENGTH, min_size=1, max_size=4).map(sorted),
        "every_steps": LENGTH, "gamma": st.floats(0.01, 1),
    },
}  # fmt: skip


def fits(name: str, options: dict[str, Any], n_steps: int) -> Any:
    """The configuration, or None where it is refused for a run of this length."""
    try:
        config = schedules.get(name).Config(**options)
    except ValidationError:
        return None
    return None if list(config.misfits(n_steps)) else config


@st.composite
def fitting(draw: Callable[[Any], Any], name: str) -> tuple[dict[str, Any], int]:
    """Settings of a schedule, and the length of a run that they fit."""
    n_steps = draw(st.integers(1, 400))
    options = {key: draw(value) for key, value in OPTIONS[name].items() if draw(st.booleans())}
    if draw(st.booleans()):
        options["warmup_steps"] = draw(st.integers(0, n_steps - 1))
    if fits(name, options, n_steps) is None:
        options = {}
    return options, n_steps


def test_every_schedule_has_its_properties_tested() -> None:
    """A row of OPTIONS names every setting, and END_VALUES says how it ends."""
    for name in NAMES:
        fields = set(schedules.get(name).Config.model_fields) - {"warmup_steps"}
        assert fields == set(OPTIONS[name]), name
    assert set(END_VALUES) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_every_schedule_stays_in_range_and_warms_up(name: str, data: st.DataObject) -> None:
    options, n_steps = data.draw(fitting(name))
    found = factors(name, n_steps, **options)
    assert all(math.isfinite(factor) and 0 <= factor <= 1 for factor in found)
    warmup = options.get("warmup_steps", 0)
    for step in range(1, warmup + 1):
        assert found[step - 1] == pytest.approx(found[warmup] * step / (warmup + 1), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_every_schedule_is_a_function_of_the_step(name: str, data: st.DataObject) -> None:
    """Asked in any order, by any instance: what an exact resume needs."""
    options, n_steps = data.draw(fitting(name))
    found = factors(name, n_steps, **options)
    again = make(name, **options)
    for step in data.draw(st.lists(st.integers(1, n_steps), min_size=1)):
        assert again.factor(step, n_steps) == found[step - 1]


def one_after(c: Any, n: int) -> tuple[int, float]:
    """The end value is that of the step after the last."""
    return n + 1, c.final_fraction


def of_cycles(c: Any, n: int) -> tuple[int, float] | None:
    """Cycles that fill the run end with it; of others there is nothing to say."""
    return None if c.cycle_steps else one_after(c, n)


def of_inverse_sqrt(c: Any, n: int) -> tuple[int, float]:
    timescale = c.timescale_steps or c.warmup_steps or 1
    return n, math.sqrt(timescale / (timescale + n - 1 - c.warmup_steps))


def of_step(c: Any, n: int) -> tuple[int, float]:
    drops = sum(done <= n - 1 for done in c.milestone_steps or (n / 2, 3 * n / 4))
    if c.every_steps:
        drops = (n - 1 - c.warmup_steps) // c.every_steps
    return n, c.gamma**drops


END_VALUES: dict[str, Callable[[Any, int], tuple[int, float] | None]] = {
    "constant": lambda c, n: (n, 1.0),
    "linear": one_after,
    "cosine": one_after,
    "polynomial": one_after,
    "cosine-restarts": of_cycles,
    "inverse-sqrt": of_inverse_sqrt,
    "warmup-stable-decay": one_after,
    "one-cycle": lambda c, n: (n, c.final_fraction),
    "step": of_step,
}


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_every_schedule_ends_as_its_docstring_says(name: str, data: st.DataObject) -> None:
    options, n_steps = data.draw(fitting(name))
    config = schedules.get(name).Config(**options)
    end = END_VALUES[name](config, n_steps)
    if end is not None:
        step, value = end
        assert make(name, **options).factor(step, n_steps) == pytest.approx(value, rel=1e-12)


def as_file(folder: Path, name: str, options: dict[str, Any], n_steps: int) -> Path:
    values = {
        "model": "mlp",
        "data": {"text": "book.txt"},
        "training": {"steps": n_steps, "batch_size": 4},
        "schedule": {"name": name, **options},
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


SIZED: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in NAMES if name not in ("inverse-sqrt", "cosine-restarts")),
    ("linear", {"warmup_steps": 100, "decay_steps": 800}),
    ("cosine", {"warmup_steps": 100, "decay_steps": 900}),
    ("polynomial", {"decay_steps": 500, "power": 2}),
    ("cosine-restarts", {"warmup_steps": 50, "cycle_steps": 100}),
    ("cosine-restarts", {"n_cycles": 2, "cycle_growth": 4}),
    ("inverse-sqrt", {"warmup_steps": 200}),
    ("inverse-sqrt", {"timescale_steps": 50}),
    ("warmup-stable-decay", {"warmup_steps": 100, "cooldown_steps": 300, "cooldown": "linear"}),
    ("one-cycle", {"warmup_steps": 100, "three_phases": True}),
    ("step", {"warmup_steps": 100, "milestone_steps": [200, 400, 950]}),
    ("step", {"every_steps": 150}),
]


@pytest.mark.parametrize(("name", "options"), SIZED, ids=str)
def test_every_schedule_is_sized_to_the_run_of_a_study(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """A run of a tenth of the length goes through the same curve."""
    path = as_file(tmp_path, name, options, 1000)
    short = resolve_at(path, steps=100).config.schedule
    long_ = schedules.get(name)(resolve(path).config.schedule.config)
    short_ = schedules.get(name)(short.config)
    for done in range(short.config.warmup_steps, 100):
        expected = long_.factor(10 * done + 1, 1000)
        # one-cycle turns a step or two before its share of the run: not the same of both
        room = 0.1 if name == "one-cycle" else 1e-12
        assert short_.factor(done + 1, 100) == pytest.approx(expected, rel=1e-9, abs=room)


def test_whole_numbers_of_a_schedule_count_steps_or_are_known_not_to() -> None:
    for name in NAMES:
        for key, field in schedules.get(name).Config.model_fields.items():
            says_int = "int" in str(field.annotation) or "Steps" in str(field.annotation)
            if says_int:
                assert counts_steps(f"schedule.{key}") != (key == "n_cycles"), (name, key)


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_what_fits_a_run_fits_a_shorter_one_of_a_study(data: st.DataObject, tmp_path: Path) -> None:
    name = data.draw(st.sampled_from(NAMES))
    options, n_steps = data.draw(fitting(name))
    warmup, end = options.get("warmup_steps", 0), options.get("decay_steps", 10**9)
    steps = data.draw(st.integers(min(n_steps, 50), n_steps))
    if warmup * steps // n_steps == end * steps // n_steps or "n_cycles" in options:
        return  # too short for a step of decay, or for so many cycles
    resolve_at(as_file(tmp_path, name, options, n_steps), steps=steps)


TOO_LONG: list[tuple[str, dict[str, Any], str, str]] = [
    *((name, {"warmup_steps": 40}, "warmup_steps", "leaves none of a run of 40") for name in NAMES),
    ("linear", {"decay_steps": 41}, "decay_steps", "does not end within a run of 40"),
    ("cosine", {"decay_steps": 41}, "decay_steps", "does not end within a run of 40"),
    ("polynomial", {"decay_steps": 90}, "decay_steps", "does not end within a run of 40"),
    ("cosine-restarts", {"cycle_steps": 36, "warmup_steps": 5}, "cycle_steps", "the 35 steps"),
    ("cosine-restarts", {"n_cycles": 7}, "n_cycles", "has no step of the 40"),
    ("cosine-restarts", {"n_cycles": 900, "cycle_growth": 90}, "n_cycles", "has no step"),
    ("warmup-stable-decay", {"cooldown_steps": 36, "warmup_steps": 5}, "cooldown_steps",
     "a decay of 36 steps after a warm-up of 5 does not fit into a run of 40"),
    ("step", {"milestone_steps": [3, 40]}, "milestone_steps.1", "does not reach a milestone at 40"),
    ("step", {"every_steps": 40}, "every_steps", "do not reach a drop at 40"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "key", "words"), TOO_LONG, ids=str)
def test_what_is_longer_than_the_run_is_refused_with_its_place(
    name: str, options: dict[str, Any], key: str, words: str, tmp_path: Path
) -> None:
    path = as_file(tmp_path, name, options, 40)
    with pytest.raises(ConfigError) as caught:
        resolve(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:1: schedule.{key}: "), message
    assert words in message
    assert "\n" not in message
    if options.get("n_cycles") != 900:
        assert resolve(path, ["training.steps=4000"]).config.training.steps == 4000


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    *((name, {"warmup_steps": bad}, "warmup_steps") for name in NAMES for bad in (-1, 1.5, "many")),
    *(("cosine", {"warmup_steps": 10, "decay_steps": n}, "greater than warmup") for n in (1, 10)),
    ("linear", {"final_fraction": 1.5}, "final_fraction"),
    ("polynomial", {"power": 0}, "power"),
    ("cosine-restarts", {"cycle_steps": 5, "n_cycles": 2}, "keep one"),
    ("cosine-restarts", {"cycle_growth": 0.5}, "cycle_growth"),
    ("inverse-sqrt", {"timescale_steps": 0}, "timescale_steps"),
    ("warmup-stable-decay", {"cooldown": "sqrt"}, "cooldown"),
    ("one-cycle", {"three_phases": True, "rise_fraction": 0.6}, "at most 0.5"),
    ("step", {"every_steps": 5, "milestone_steps": [2]}, "keep one"),
    ("step", {"milestone_steps": [20, 10]}, "less than the milestone before, 20"),
    ("step", {"milestone_steps": [20], "warmup_steps": 30}, "less than warmup_steps, 30"),
    ("step", {"milestone_steps": []}, "milestone_steps"),
    ("step", {"gamma": 0}, "gamma"),
]


@pytest.mark.parametrize(("name", "options", "words"), REFUSED, ids=str)
def test_settings_that_cannot_be_are_refused(
    name: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        make(name, **options)
