"""Clipping by value and by units, against PyTorch and the authors' definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_runs as runs
from hypothesis import given, settings
from hypothesis import strategies as st

from bptool.errors import ConfigError
from bptool.models.presets import GPT2, GPT2Config
from bptool.optim.clipping import EPS, clip_by_value, clip_units, scale_gradient
from bptool.training.regularization import Clipping, Regularization
from bptool.training.workers import WorkerTeam

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
MODEL = GPT2(GPT2Config(n_layer=2, n_head=2, n_embd=8, context=6, tie_embeddings=False), 13)


@DTYPES
def test_by_value_equals_torch(dtype: type) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed; see CONTRIBUTING.md")
    g = np.random.default_rng(0).standard_normal(1001).astype(dtype)
    leaf = torch.zeros(1001, dtype=torch.float32 if dtype == np.float32 else torch.float64)
    leaf.grad = torch.tensor(g)
    torch.nn.utils.clip_grad_value_([leaf], 0.7)
    clip_by_value(g, 0.7)
    assert np.array_equal(g, leaf.grad.numpy())


@DTYPES
def test_scaling(dtype: type) -> None:
    g = np.arange(5, dtype=dtype)
    scale_gradient(g, 0.5)
    assert np.array_equal(g, np.arange(5) / 2)


def by_definition(g: Any, w: Any, ratio: float) -> Any:
    """Equation 3 of the paper, row by row, in float64."""
    g, w = g.astype(np.float64), w.astype(np.float64)
    out = g.copy()
    for row, own, unit in zip(out, g, w, strict=True):
        size, most = np.linalg.norm(own), ratio * max(np.linalg.norm(unit), 1e-3)
        if size > most:
            row[:] = own * (most / size)
    return out


@DTYPES
@given(rows=st.integers(1, 6), width=st.integers(1, 9), seed=st.integers(0, 99))
@settings(max_examples=40)
def test_units_equal_the_definition(dtype: type, rows: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    g, w = rng.standard_normal((2, rows, width)).astype(dtype)
    w *= np.array(10.0, dtype) ** rng.integers(-6, 3, (rows, 1))
    w[0] = 0
    kept, want = w.copy(), by_definition(g, w, 0.3)
    clip_units(g, w, 0.3, EPS)
    np.testing.assert_allclose(g, want, rtol=2e-6, atol=1e-30)
    assert np.array_equal(w, kept)


def test_a_huge_gradient_is_clipped_and_not_lost() -> None:
    g, w = np.full((1, 4), 1e25, np.float32), np.ones((1, 4), np.float32)
    clip_units(g, w, 0.01, EPS)
    np.testing.assert_allclose(g, np.full((1, 4), 0.01), rtol=1e-6)


@pytest.mark.parametrize("n_workers", [1, 3])
def test_a_models_units_are_rows_and_whole_vectors_and_tables_are_left(n_workers: int) -> None:
    rng = np.random.default_rng(2)
    gradient, weights = (MODEL.layout.allocate(np.float64) for _ in range(2))
    for place in MODEL.layout.places():
        n = place.stop - place.start
        gradient[place.start : place.stop] = rng.standard_normal(n)
        weights[place.start : place.stop] = 0.1 * rng.standard_normal(n)
    before = gradient.copy()
    with WorkerTeam(n_workers) as team:
        rules = Regularization((), Clipping(adaptive=0.05), MODEL.layout, (), team)
        norm = float(np.linalg.norm(gradient))
        assert rules.change_gradient(gradient, weights, norm, 0, 1) == 1.0
    clipped, original = MODEL.layout.named(gradient), MODEL.layout.named(before)
    for place in MODEL.layout.places():
        found, own = clipped[place.name], original[place.name]
        if place.table:
            assert np.array_equal(found, own), place.name
            continue
        w = MODEL.layout.named(weights)[place.name]
        want = by_definition(*(a.reshape(-1, a.shape[-1]) for a in (own, w)), 0.05)
        np.testing.assert_allclose(found.reshape(want.shape), want, rtol=1e-12)
        assert not np.array_equal(found, own)


def test_by_value_and_by_norm_change_what_they_should() -> None:
    gradient, weights = (MODEL.layout.allocate(np.float64) for _ in range(2))
    gradient[:50] = np.linspace(-1, 1, 50)
    norm = float(np.linalg.norm(gradient))
    with WorkerTeam(2) as team:
        for clipping, scale, want in (
            (Clipping(), 1.0, gradient),
            (Clipping(norm=norm / 2), pytest.approx(0.5, rel=1e-6), gradient),
            (Clipping(value=0.3), 1.0, np.clip(gradient, -0.3, 0.3)),
        ):
            found = gradient.copy()
            rules = Regularization((), clipping, MODEL.layout, (), team)
            assert rules.change_gradient(found, weights, norm, 0, 1) == scale
            assert np.array_equal(found, want)


def test_two_ways_of_clipping_are_refused(tmp_path: Path) -> None:
    values = runs.settings(tmp_path / "none.txt", runs.MLP, clip_value=1.0)
    with pytest.raises(
        ConfigError, match=r"clip_value: the gradient is clipped by clip_norm already"
    ):
        runs.config_of(values)
    values["training"]["clip_norm"] = None
    assert runs.config_of(values).training.clip_value == 1.0
