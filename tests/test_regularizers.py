"""Every regularizer's contract, by its kind, and its numbers against differences and PyTorch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bptool.config.load import resolve
from bptool.errors import ConfigError
from bptool.registry import regularizers
from bptool.regularizers.base import Constraint, GradientModifier, Penalty

NAMES = regularizers.names()
KINDS = (Penalty, GradientModifier, Constraint)
PENALTIES, MODIFIERS, CONSTRAINTS = (
    [name for name in NAMES if issubclass(regularizers.get(name), kind)] for kind in KINDS
)


def make(name: str, **options: Any) -> Any:
    cls = regularizers.get(name)
    return cls(cls.Config(**options))


def weights(n: int, dtype: type) -> Any:
    """Weights away from 0, where L1 has its kink."""
    rng = np.random.default_rng(n)
    return (rng.choice([-1, 1], size=n) * rng.uniform(0.05, 2, size=n)).astype(dtype)


def test_every_regularizer_is_of_one_kind() -> None:
    assert sorted(PENALTIES + MODIFIERS + CONSTRAINTS) == NAMES
    assert (PENALTIES, MODIFIERS, CONSTRAINTS) == (["l1", "l2"], ["gradient-noise"], ["max-norm"])


@pytest.mark.parametrize("name", PENALTIES)
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


FORMULAS = {
    "l1": lambda w, strength: strength * w.abs().sum(),
    "l2": lambda w, strength: 0.5 * strength * (w * w).sum(),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-14), (np.float32, 1e-6)])
@pytest.mark.parametrize("name", PENALTIES)
def test_equals_torch_autograd(name: str, dtype: type, tolerance: float) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed; see CONTRIBUTING.md")
    w = weights(1001, dtype)
    w[::10] = 0
    before = weights(1002, dtype)[:1001]
    gradient = before.copy()
    penalty = make(name, strength=0.02).penalty_and_gradient(w, gradient)
    tensor = torch.tensor(w, requires_grad=True)
    reference = FORMULAS[name](tensor, 0.02)
    reference.backward()
    assert penalty == pytest.approx(reference.item(), rel=max(tolerance, 1e-13))
    np.testing.assert_allclose(gradient, before + tensor.grad.numpy(), rtol=0, atol=2 * tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", PENALTIES)
def test_contract_of_penalties(name: str, dtype: type) -> None:
    rule = make(name)
    kept_settings = copy.deepcopy(vars(rule))
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
    assert vars(rule) == kept_settings

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


@pytest.mark.parametrize("name", PENALTIES)
def test_strength_scales_penalty_and_gradient(name: str) -> None:
    w = weights(50, np.float64)
    one, three = np.zeros(50), np.zeros(50)
    penalty = make(name, strength=0.1).penalty_and_gradient(w, one)
    assert make(name, strength=0.3).penalty_and_gradient(w, three) == pytest.approx(3 * penalty)
    np.testing.assert_allclose(three, 3 * one, rtol=1e-14)


@pytest.mark.parametrize("name", PENALTIES)
def test_non_finite_weights_show(name: str) -> None:
    w = np.ones(64, np.float32)
    w[40] = np.nan
    assert np.isnan(make(name).penalty_and_gradient(w, np.zeros_like(w)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", MODIFIERS)
def test_contract_of_modifiers(name: str, dtype: type) -> None:
    rule, start = make(name), weights(301, dtype)
    kept_settings = copy.deepcopy(vars(rule))

    def modified(*cuts: int, seed: int = 3, step: int = 7) -> Any:
        g, edges = start.copy(), [0, *cuts, 301]
        for i in range(len(edges) - 1):
            first, last = edges[i], edges[i + 1]
            rule.modify(g[first:last], first=first, seed=seed, step=step)
        return g

    whole = modified()
    assert whole.dtype == dtype
    assert not np.array_equal(whole, start)
    assert np.array_equal(modified(), whole)
    for cuts in ((1,), (16, 48, 200), (63, 64, 65), (300,)):
        assert np.array_equal(modified(*cuts), whole)
    for other in (modified(seed=4), modified(step=8)):
        assert np.mean(other == whole) < 0.1
    assert vars(rule) == kept_settings


def test_noise_has_the_variance_of_its_step() -> None:
    rule = make("gradient-noise", variance=0.3, decay=0.55)
    for step in (1, 10, 1000):
        g = np.full(40_000, 2.0)
        rule.modify(g, first=0, seed=1, step=step)
        variance = 0.3 / step**0.55
        assert g.mean() == pytest.approx(2, abs=5 * np.sqrt(variance / g.size))
        assert g.var() == pytest.approx(variance, rel=0.05)


@given(
    rows=st.integers(1, 7), width=st.integers(1, 9), cut=st.integers(0, 7), seed=st.integers(0, 99)
)
@settings(max_examples=40)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_contract_of_constraints(
    name: str, dtype: type, rows: int, width: int, cut: int, seed: int
) -> None:
    rule = make(name)
    w = (5 * np.random.default_rng(seed).standard_normal((rows, width))).astype(dtype)
    whole, parts = w.copy(), w.copy()
    rule.constrain(whole)
    rule.constrain(parts[:cut])
    rule.constrain(parts[cut:])
    assert np.array_equal(parts, whole)
    again = whole.copy()
    rule.constrain(again)
    np.testing.assert_allclose(again, whole, rtol=1e-6)
    zeros = np.zeros((2, 3), dtype)
    rule.constrain(zeros)
    assert not zeros.any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_max_norm_scales_only_rows_beyond_the_norm(dtype: type) -> None:
    w = np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0], [-30.0, 40.0]], dtype)
    make("max-norm", norm=2.5).constrain(w)
    np.testing.assert_allclose(w, [[1.5, 2.0], [0.3, 0.4], [0, 0], [-1.5, 2.0]], rtol=1e-6)
    assert np.array_equal(w[1:3], np.array([[0.3, 0.4], [0, 0]], dtype))
    huge = np.full((1, 4), 1e30, dtype)
    make("max-norm", norm=2.0).constrain(huge)
    np.testing.assert_allclose(huge, np.ones((1, 4)), rtol=1e-6)


def test_max_norm_equals_torch_renorm() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed; see CONTRIBUTING.md")
    w = np.random.default_rng(0).standard_normal((20, 33))
    want = torch.renorm(torch.tensor(w), p=2, dim=0, maxnorm=5.5).numpy()
    make("max-norm", norm=5.5).constrain(w)
    np.testing.assert_allclose(w, want, rtol=1e-6)  # torch adds 1e-7 to the norm


def test_max_norm_is_of_hidden_matrices_and_of_tables_where_asked() -> None:
    plain, tables = make("max-norm"), make("max-norm", tables=True)
    assert plain.applies_to((3, 4), table=False)
    assert not plain.applies_to((3, 4), table=True)
    assert tables.applies_to((3, 4), table=True)
    assert not any(rule.applies_to((3,), table=False) for rule in (plain, tables))


def test_a_regularizer_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "model: gpt2\ndata: {text: x.txt}\ntraining: {steps: 1, batch_size: 1}\n"
        "regularizers:\n  - l2\n  - l1\n  - {name: l2, strength: 1}\n",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError, match=r"yaml:7: regularizers.2: 'l2' is listed twice"):
        resolve(path)
