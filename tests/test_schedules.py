"""Schedules against their closed forms, nanoGPT's rule and PyTorch's schedulers."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bptool.registry import schedules


def make(name: str, **options: Any) -> Any:
    cls = schedules.get(name)
    return cls(cls.Config(**options))


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


def test_cosine_decays_over_the_run_unless_told() -> None:
    whole = make("cosine", warmup_steps=2)
    told = make("cosine", warmup_steps=2, decay_steps=40)
    assert [whole.factor(s, 40) for s in range(1, 41)] == [told.factor(s, 99) for s in range(1, 41)]


def test_cosine_equals_torch() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed; see CONTRIBUTING.md")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30, eta_min=0.1)
    schedule = make("cosine", final_fraction=0.1)
    for step in range(1, 31):
        assert schedule.factor(step, 30) == pytest.approx(reference.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        reference.step()


def test_warmup_equals_torch() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed; see CONTRIBUTING.md")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1 / 9, total_iters=8)
    schedule = make("constant", warmup_steps=8)
    for step in range(1, 20):
        assert schedule.factor(step, 20) == pytest.approx(reference.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        reference.step()


def test_constant_is_one() -> None:
    assert {make("constant").factor(step, 9) for step in range(1, 10)} == {1.0}


@pytest.mark.parametrize("decay", [1, 5, 10])
def test_cosine_refuses_a_decay_that_ends_within_the_warmup(decay: int) -> None:
    with pytest.raises(ValidationError, match="greater than warmup_steps"):
        make("cosine", warmup_steps=10, decay_steps=decay)


@pytest.mark.parametrize("name", schedules.names())
@given(n_steps=st.integers(1, 300), warmup=st.integers(0, 400))
def test_every_schedule_warms_up_and_stays_in_range(name: str, n_steps: int, warmup: int) -> None:
    schedule = make(name, warmup_steps=warmup)
    factors = [schedule.factor(step, n_steps) for step in range(1, n_steps + 1)]
    assert all(math.isfinite(factor) and 0 < factor <= 1 for factor in factors)
    for step in range(1, min(warmup, n_steps) + 1):
        assert factors[step - 1] == pytest.approx(step / (warmup + 1))


@pytest.mark.parametrize("name", schedules.names())
def test_every_schedule_starts_whole_and_keeps_no_state(name: str) -> None:
    schedule = make(name)
    assert schedule.factor(1, 50) == 1.0
    forward = [schedule.factor(step, 50) for step in range(1, 51)]
    backward = [schedule.factor(step, 50) for step in range(50, 0, -1)]
    assert forward == backward[::-1]


@pytest.mark.parametrize("name", schedules.names())
@pytest.mark.parametrize("bad", [-1, 1.5, "many"])
def test_every_schedule_refuses_an_absurd_warmup(name: str, bad: object) -> None:
    with pytest.raises(ValidationError, match="warmup_steps"):
        make(name, warmup_steps=bad)
