"""Rules that PyTorch has not equal their papers' pseudo-code, in plain numpy, for 20 steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_optim_contract import advance, zeros

from bptool.registry import optimizers

Array = NDArray[Any]
N_STEPS = 20


def recorded(dtype: type) -> tuple[Array, list[Array]]:
    rng = np.random.default_rng(11)
    scale = 10.0 ** rng.uniform(-4, 1, size=201)
    gradients = [(scale * rng.normal(size=201)).astype(np.float32) for _ in range(N_STEPS)]
    return rng.normal(size=201).astype(np.float32).astype(dtype), [
        g.astype(dtype) for g in gradients
    ]


def lion(w: Array, gradients: list[Array], rates: list[float], c: dict[str, Any]) -> Array:
    """Chen et al. 2023, algorithm 2."""
    b1, b2, m = c["beta1"], c["beta2"], np.zeros_like(w)
    for g, rate in zip(gradients, rates, strict=True):
        update = np.sign(b1 * m + (1 - b1) * g)
        m = b2 * m + (1 - b2) * g
        w = w - rate * (update + c["weight_decay"] * w)
    return w


def ademamix(w: Array, gradients: list[Array], rates: list[float], c: dict[str, Any]) -> Array:
    """Pagliardini et al. 2024, algorithm 1; half-life grows linearly in the warm-up."""
    b1, b2 = c["beta1"], c["beta2"]
    m1, m2, v = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)

    def half_life(beta: float) -> float:
        return math.log(0.5) / math.log(beta)

    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        done = min(1.0, t / c["warmup_steps"]) if c["warmup_steps"] else 1.0
        alpha = done * c["alpha"]
        lives = (1 - done) * half_life(b1) + done * half_life(c["beta3"])
        b3 = 0.5 ** (1 / lives)
        m1 = b1 * m1 + (1 - b1) * g
        m2 = b3 * m2 + (1 - b3) * g
        v = b2 * v + (1 - b2) * g**2
        m1_hat, v_hat = m1 / (1 - b1**t), v / (1 - b2**t)
        step = (m1_hat + alpha * m2) / (np.sqrt(v_hat) + c["eps"])
        w = w - rate * (step + c["weight_decay"] * w)
    return w


def schedule_free(w: Array, gradients: list[Array], rates: list[float], c: dict[str, Any]) -> Array:
    """Defazio et al. 2024, algorithm 1, with z and x kept; returns the average x."""
    b1, b2 = c["beta1"], c["beta2"]
    z, x, v, total, largest = w.copy(), w.copy(), np.zeros_like(w), 0.0, 0.0
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        y = (1 - b1) * z + b1 * x
        v = b2 * v + (1 - b2) * g**2
        direction = g / (np.sqrt(v / (1 - b2**t)) + c["eps"])
        z = z - rate * direction - rate * c["weight_decay"] * y
        largest = max(largest, rate)
        total += largest ** c["rate_power"]
        share = largest ** c["rate_power"] / total
        x = (1 - share) * x + share * z
    return x


REFERENCES: dict[str, Callable[..., Array]] = {
    "lion": lion,
    "ademamix": ademamix,
    "schedule-free-adamw": schedule_free,
}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("lion", {}),
    ("lion", {"beta1": 0.95, "beta2": 0.98, "weight_decay": 0.3, "learning_rate": 1e-3}),
    ("ademamix", {}),
    ("ademamix", {"weight_decay": 0.1, "warmup_steps": 12, "alpha": 5.0, "beta3": 0.999}),
    ("schedule-free-adamw", {}),
    ("schedule-free-adamw", {"beta1": 0.95, "beta2": 0.99, "weight_decay": 0.1}),
    ("schedule-free-adamw", {"rate_power": 0.0, "beta1": 0.5, "eps": 1e-4}),
]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_equals_the_paper(name: str, options: dict[str, Any], dtype: type) -> None:
    cls = optimizers.get(name)
    ours = cls(cls.Config(**options))
    w, gradients = recorded(dtype)
    # A warm-up, a plateau and a decay, since the rate enters some rules more than once.
    factors = [min(1.0, t / 5, (N_STEPS + 1 - t) / 8) for t in range(1, N_STEPS + 1)]
    rates = [ours.config.learning_rate * factor for factor in factors]
    want = REFERENCES[name](w.astype(np.float64), gradients, rates, ours.config.model_dump())
    slots = zeros(ours, w)
    start = w.copy()
    for step, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        advance(ours, slots, rate, step)
        decay = ours.weight_decay
        ours.update(w, g, slots, learning_rate=rate, weight_decay=decay, grad_scale=1.0, step=step)
    found = np.empty_like(w) if ours.evaluates_elsewhere else w
    if ours.evaluates_elsewhere:
        ours.evaluation_weights(found, w, slots)
    tolerance = 1e-12 if dtype is np.float64 else 1e-6
    assert np.abs(found - want).max() <= tolerance * np.abs(want).max()
    assert not np.array_equal(found, start)


def test_before_the_first_update_the_average_is_the_weights_themselves() -> None:
    cls = optimizers.get("schedule-free-adamw")
    ours, (w, _) = cls(cls.Config()), recorded(np.float32)
    out = np.empty_like(w)
    ours.evaluation_weights(out, w, zeros(ours, w))
    assert np.array_equal(out, w)
