"""Whole models at float64, and the gradient of the program that trains against them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from bptool.gradient_check.check import Effort, check
from bptool.gradient_check.model import (
    SAFE_MARGIN,
    SETTINGS,
    ModelFunction,
    draw_batch,
    draw_weights,
    effort_for,
    kinked_at_zero,
    mask_unevenly,
    model_function,
)
from bptool.gradient_check.training_path import MAX_ERROR, PathReport, compare
from bptool.models.gpt2 import GPT2, GPT2Config
from bptool.models.mlp import MLP, MLPConfig
from bptool.regularizers.l1 import L1, L1Config
from bptool.regularizers.l2 import L2, L2Config

N_VOCAB = 13
GPT2_CONFIGS = [
    {},
    {"bias": False, "tie_embeddings": False, "activation": "relu"},
    {"activation": "gelu_tanh", "dropout": 0.2, "stochastic_depth": 0.6},
]
MLP_CONFIGS = [
    {"activation": "relu", "n_layer": 3},
    {"activation": "sigmoid"},
    {"activation": "gelu", "n_layer": 2},
]


def gpt2(**settings) -> GPT2:
    return GPT2(GPT2Config(**{**SETTINGS["gpt2"], **settings}), N_VOCAB)


def mlp(**settings) -> MLP:
    return MLP(MLPConfig(**{**SETTINGS["mlp"], **settings}), N_VOCAB)


MODELS = [gpt2(**c) for c in GPT2_CONFIGS] + [mlp(**c) for c in MLP_CONFIGS]


@pytest.mark.parametrize("model", MODELS, ids=lambda m: f"{m.name}-{m.config.activation}")
def test_every_gradient_of_a_model_is_right(model):
    report = check(model_function(model), effort=Effort(4, 2))
    assert report.ok, report.failures()
    assert {t.name for t in report.tensors} == set(model.layout.named(model.layout.allocate("f4")))
    for tensor in report.tensors:
        assert tensor.note == "", f"{tensor.name} is idle where it is checked"
        assert tensor.taylor is not None
        assert tensor.taylor.verdict == "ok"
        assert tensor.taylor.slope >= 1.9
    relu = model.config.activation == "relu"
    assert any(tensor.kinks for tensor in report.tensors) == relu


def test_penalties_are_part_of_the_function_and_only_the_kinked_one_has_kinks():
    penalties = [L1(L1Config(strength=0.01)), L2(L2Config(strength=0.02))]
    assert [kinked_at_zero(p) for p in penalties] == [True, False]
    plain = model_function(mlp())
    function = model_function(mlp(), regularizers=penalties)
    weights = function.weights[: function.model.layout.n_decayed]
    penalty = 0.01 * np.abs(weights).sum() + 0.01 * (weights**2).sum()
    assert function.value() - plain.value() == pytest.approx(penalty, rel=1e-9)
    report = check(function, effort=Effort(4, 2))
    assert report.ok, report.failures()
    kinks = set().union(*(t.kinks for t in report.tensors))
    assert kinks == {"weight at 0"}


def test_the_point_is_clear_of_kinks_and_the_same_for_float32():
    function = model_function(mlp(activation="relu", n_layer=3), seed=4)
    function.value()
    assert function.kink_margin() >= SAFE_MARGIN
    assert np.array_equal(function.weights, function.weights.astype(np.float32))
    again = model_function(mlp(activation="relu", n_layer=3), seed=4)
    assert np.array_equal(function.weights, again.weights)
    assert np.array_equal(function.tokens, again.tokens)


def test_no_parameter_is_left_at_a_constant():
    model = gpt2()
    for spec, view in zip(model.specs, model.layout.views(draw_weights(model, 0)), strict=True):
        assert view.size < 2 or np.unique(view).size > view.size // 2, spec.name


@pytest.mark.parametrize("n_vocab", [1, 2, 5, 50_000])
def test_batches_repeat_tokens_reach_both_ends_and_are_masked_unevenly(n_vocab):
    tokens, targets = draw_batch(n_vocab, 4, 16, seed=3)
    assert tokens.shape == targets.shape == (4, 16)
    assert tokens.dtype == targets.dtype == np.int32
    assert np.unique(tokens).size < tokens.size
    assert tokens.min() >= 0
    assert max(tokens.max(), targets.max()) < n_vocab
    kept = (targets >= 0).sum(axis=1)
    assert kept[0] == 16
    assert kept[1] == 8
    assert 0 < kept[2] < 16
    assert (mask_unevenly(targets, 9) >= 0).sum() <= (targets >= 0).sum()


def test_a_model_whose_two_losses_differ_is_refused(monkeypatch):
    monkeypatch.setattr(MLP, "loss", lambda self, *arguments, **options: 1.0)
    with pytest.raises(ValueError, match="must be one function"):
        model_function(mlp())


def test_a_dear_function_is_probed_less():
    function = model_function(mlp())
    assert effort_for(function) == Effort(8, 3)
    function.tokens = np.zeros((10_000, 10_000), np.int8)
    assert effort_for(function) == Effort(4, 2)


def own_gradient(function: ModelFunction) -> tuple[float, np.ndarray]:
    return function.step(), function.gradient.copy()


def test_training_that_agrees_passes_and_a_small_error_in_one_tensor_fails():
    function = model_function(mlp())
    report = compare("batch", function, own_gradient)
    assert report.ok
    assert report.failures() == []
    assert report.worst.error == 0

    def off(function: ModelFunction) -> tuple[float, np.ndarray]:
        loss, gradient = own_gradient(function)
        function.model.layout.named(gradient)["input.weight"] *= 1 + 2 * MAX_ERROR
        return loss, gradient

    report = compare("batch", function, off)
    assert not report.ok
    assert [t.name for t in report.tensors if not t.ok] == ["input.weight"]
    assert "input.weight: the training gradient is off by 2e-05" in report.failures()[0]


def test_a_wrong_loss_or_a_gradient_that_is_not_finite_fails():
    function = model_function(mlp())
    wrong_loss = compare("batch", function, lambda f: (2 * f.step(), f.gradient.copy()))
    assert not wrong_loss.ok
    assert "training loss" in wrong_loss.failures()[0]
    nothing = compare("batch", function, lambda f: (f.step(), f.gradient * math.nan))
    assert not nothing.ok
    assert len(nothing.failures()) == len(function.inputs)
    assert nothing.to_json()["tensors"][0]["error"] == "nan"


def test_a_zero_gradient_is_measured_against_all_others():
    function = model_function(mlp())
    total = float(np.linalg.norm(own_gradient(function)[1]))

    def with_bias_near_zero(error: float) -> PathReport:
        bias = function.model.layout.named(function.gradient)["output.bias"]
        original = function.step

        def step() -> float:
            loss = original()
            bias[:] = 0
            return loss

        function.step = step  # type: ignore[method-assign]
        try:

            def train(f: ModelFunction) -> tuple[float, np.ndarray]:
                loss, gradient = own_gradient(f)
                f.model.layout.named(gradient)["output.bias"][0] = error
                return loss, gradient

            return compare("batch", function, train)
        finally:
            function.step = original  # type: ignore[method-assign]

    small, large = with_bias_near_zero(1e-6 * total), with_bias_near_zero(1e-4 * total)
    assert small.ok
    assert next(t for t in small.tensors if t.name == "output.bias").zero
    assert [t.name for t in large.tensors if not t.ok] == ["output.bias"]


def test_an_input_near_its_kink_is_said():
    function = model_function(mlp(activation="relu"))
    function.kink_margin = lambda: 1e-7  # type: ignore[method-assign]
    report = compare("batch", function, own_gradient)
    assert "1.0e-07 from its kink" in report.note
    assert dataclasses.replace(report, note="").ok
