"""Every regularizer's gradient against finite differences and PyTorch, and its contract."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from bptool.registry import regularizers

NAMES = regularizers.names()


def make(name: str, **options: Any) -> Any:
    cls = regularizers.get(name)
    return cls(cls.Config(**options))


def weights(n: int, dtype: type) -> Any:
    """Weights away from 0, where L1 has its kink."""
    rng = np.random.default_rng(n)
    return (rng.choice([-1, 1], size=n) * rng.uniform(0.05, 2, size=n)).astype(dtype)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_equals_central_differences(name: str) -> None:
    rule, w, step = make(name, strength=0.3), weights(37, np.float64), 1e-6
    gradient = np.zeros_like(w)
    rule.penalty_and_gradient(w, gradient)
    for i in range(w.size):
        move = np.zeros_like(w)
        move[i] = step
        up = rule.penalty_and_gradient(w + move, np.zeros_like(w))
        down = rule.penalty_and_gradient(w - move, np.zeros_like(w))
        assert (up - down) / (2 * step) == pytest.approx(gradient[i], rel=1e-6)


PENALTIES = {
    "l1": lambda w, strength: strength * w.abs().sum(),
    "l2": lambda w, strength: 0.5 * strength * (w * w).sum(),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-14), (np.float32, 1e-6)])
@pytest.mark.parametrize("name", sorted(PENALTIES))
def test_equals_torch_autograd(name: str, dtype: type, tolerance: float) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed; see CONTRIBUTING.md")
    w = weights(1001, dtype)
    w[::10] = 0
    before = weights(1002, dtype)[:1001]
    gradient = before.copy()
    penalty = make(name, strength=0.02).penalty_and_gradient(w, gradient)
    tensor = torch.tensor(w, requires_grad=True)
    reference = PENALTIES[name](tensor, 0.02)
    reference.backward()
    assert penalty == pytest.approx(reference.item(), rel=max(tolerance, 1e-13))
    np.testing.assert_allclose(gradient, before + tensor.grad.numpy(), rtol=0, atol=2 * tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NAMES)
def test_contract(name: str, dtype: type) -> None:
    rule = make(name)
    settings = copy.deepcopy(vars(rule))
    w, start = weights(101, dtype), weights(103, dtype)[:101]
    w[[0, 50, 100]] = 0
    start[50] = 0
    kept, gradient = w.copy(), start.copy()
    penalty = rule.penalty_and_gradient(w, gradient)
    assert isinstance(penalty, float)
    assert penalty > 0
    assert gradient.dtype == dtype
    assert np.array_equal(w, kept)
    assert gradient[50] == 0
    assert vars(rule) == settings

    for cut in (0, 1, 33, 64, 101):
        parts, pieces = 0.0, start.copy()
        for piece in (slice(0, cut), slice(cut, 101)):
            parts += rule.penalty_and_gradient(w[piece], pieces[piece])
        assert np.array_equal(pieces, gradient)
        assert parts == pytest.approx(penalty, rel=1e-13)

    zeros = np.zeros(9, dtype)
    assert rule.penalty_and_gradient(zeros, zeros) == 0
    assert not zeros.any()


@pytest.mark.parametrize(
    ("name", "exact"), [("l1", lambda w: np.abs(w).sum()), ("l2", lambda w: (w * w).sum() / 2)]
)
def test_penalty_of_float32_weights_is_summed_in_float64(name: str, exact: Any) -> None:
    w = weights(20_000, np.float32)
    penalty = make(name, strength=1.0).penalty_and_gradient(w, np.zeros_like(w))
    assert penalty == pytest.approx(float(exact(w.astype(np.float64))), rel=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_strength_scales_penalty_and_gradient(name: str) -> None:
    w = weights(50, np.float64)
    one, three = np.zeros(50), np.zeros(50)
    penalty = make(name, strength=0.1).penalty_and_gradient(w, one)
    assert make(name, strength=0.3).penalty_and_gradient(w, three) == pytest.approx(3 * penalty)
    np.testing.assert_allclose(three, 3 * one, rtol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_non_finite_weights_show(name: str) -> None:
    w = np.ones(64, np.float32)
    w[40] = np.nan
    assert np.isnan(make(name).penalty_and_gradient(w, np.zeros_like(w)))
