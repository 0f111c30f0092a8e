"""Every optimizer equals PyTorch's, fed the same recorded gradients for 20 steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_optim_contract import NAMES, advance, zeros

from bptool.optim.norm import clip_scale
from bptool.registry import optimizers

torch = pytest.importorskip("torch", reason="torch is not installed; see CONTRIBUTING.md")

N_STEPS = 20
SIZES = (3, 257, 64)


def _betas(options: dict[str, Any]) -> dict[str, Any]:
    """Our ``beta1`` and ``beta2`` as PyTorch's ``betas``; the names of the rest agree."""
    names = {
        "learning_rate": "lr",
        "learning_rate_decay": "lr_decay",
        "initial_accumulator": "initial_accumulator_value",
    }
    options = {names.get(key, key): value for key, value in options.items() if key != "groups"}
    if {"beta1", "beta2"} & options.keys():
        options["betas"] = (options.pop("beta1", 0.9), options.pop("beta2", 0.999))
    return options


def _sgd(**defaults: Any) -> Callable[..., Any]:
    return lambda tensors, **options: torch.optim.SGD(tensors, **{**defaults, **options})


def _amsgrad(tensors: Any, *, decoupled_weight_decay: bool = False, **options: Any) -> Any:
    return torch.optim.Adam(
        tensors, amsgrad=True, decoupled_weight_decay=decoupled_weight_decay, **options
    )


def _nadamw(tensors: Any, **options: Any) -> Any:
    return torch.optim.NAdam(
        tensors, **{"weight_decay": 0.01, "decoupled_weight_decay": True, **options}
    )


REFERENCES: dict[str, Callable[..., Any]] = {
    "sgd": torch.optim.SGD,
    "momentum": _sgd(momentum=0.9),
    "nesterov": _sgd(momentum=0.9, nesterov=True),
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
    "amsgrad": _amsgrad,
    "nadam": torch.optim.NAdam,
    "nadamw": _nadamw,
    "radam": torch.optim.RAdam,
    "adamax": torch.optim.Adamax,
}
WITHOUT = {"lion", "ademamix", "schedule-free-adamw"}
"""Element-wise rules that PyTorch has not; ``test_optim_papers.py`` has their references."""
CASES: list[tuple[str, dict[str, Any]]] = [
    ("sgd", {}),
    ("sgd", {"learning_rate": 0.1, "weight_decay": 0.02}),
    ("sgd", {"momentum": 0.8}),
    ("sgd", {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    ("sgd", {"momentum": 0.9, "dampening": 1.0}),
    ("sgd", {"momentum": 0.95, "nesterov": True, "weight_decay": 0.01, "learning_rate": 0.02}),
    ("momentum", {}),
    ("momentum", {"momentum": 0.5, "dampening": 0.5, "weight_decay": 0.1}),
    ("momentum", {"momentum": 0.0}),
    ("nesterov", {}),
    ("nesterov", {"momentum": 0.99, "weight_decay": 0.1, "learning_rate": 0.01}),
    ("rmsprop", {}),
    ("rmsprop", {"alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1}),
    ("rmsprop", {"momentum": 0.9, "learning_rate": 1e-3}),
    ("rmsprop", {"centered": True, "weight_decay": 0.01}),
    ("rmsprop", {"centered": True, "momentum": 0.5, "alpha": 0.95, "weight_decay": 0.1}),
    ("adam", {}),
    ("adam", {"beta1": 0.0, "beta2": 0.9}),
    ("adam", {"beta1": 0.8, "beta2": 0.99, "eps": 1e-4, "weight_decay": 0.1}),
    ("adamw", {}),
    ("adamw", {"weight_decay": 0.0}),
    ("adamw", {"beta2": 0.95, "weight_decay": 0.1, "learning_rate": 0.01, "eps": 1e-6}),
    ("adagrad", {}),
    ("adagrad", {"learning_rate_decay": 0.1, "initial_accumulator": 0.1, "weight_decay": 0.1}),
    ("adadelta", {}),
    ("adadelta", {"learning_rate": 0.5, "rho": 0.95, "eps": 1e-4, "weight_decay": 0.1}),
    ("amsgrad", {}),
    ("amsgrad", {"beta2": 0.9, "weight_decay": 0.1}),
    ("amsgrad", {"beta2": 0.5, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("nadam", {}),
    ("nadam", {"momentum_decay": 0.1, "weight_decay": 0.1, "beta2": 0.95}),
    ("nadamw", {}),
    ("nadamw", {"weight_decay": 0.1, "learning_rate": 0.01}),
    ("radam", {}),
    ("radam", {"beta2": 0.9, "weight_decay": 0.1}),
    ("radam", {"beta2": 0.95, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("radam", {"beta2": 0.5}),
    ("adamax", {}),
    ("adamax", {"beta2": 0.9, "eps": 1e-4, "weight_decay": 0.1}),
]


def _recorded(dtype: type) -> tuple[list[NDArray[Any]], list[list[NDArray[Any]]]]:
    """Initial tensors and 20 steps of gradients of very different sizes, the same in each type."""
    rng = np.random.default_rng(7)
    start = [rng.normal(size=n).astype(np.float32).astype(dtype) for n in SIZES]
    scales = [10.0 ** rng.uniform(-4, 1, size=n) for n in SIZES]
    gradients = [
        [(scale * rng.normal(size=scale.size)).astype(np.float32).astype(dtype) for scale in scales]
        for _ in range(N_STEPS)
    ]
    return start, gradients


def _assert_near(ours: NDArray[Any], theirs: Any, dtype: type) -> None:
    reference = theirs.detach().numpy()
    assert ours.dtype == reference.dtype == dtype
    tolerance = 1e-12 if dtype is np.float64 else 1e-6
    error = np.abs(ours - reference).max() / np.abs(reference).max()
    assert error <= tolerance, f"off by {error:.2e} of the largest weight"


def test_every_rule_with_a_reference_is_covered() -> None:
    known = {name for name in NAMES if optimizers.get(name).__module__[:7] == "bptool."}
    assert known - WITHOUT == set(REFERENCES) == {name for name, _ in CASES}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_equals_torch(name: str, options: dict[str, Any], dtype: type) -> None:
    # PyTorch keeps numbers such as NAdam's product in its default type.
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        _compare_with_torch(name, options, dtype)
    finally:
        torch.set_default_dtype(default)


def _compare_with_torch(name: str, options: dict[str, Any], dtype: type) -> None:
    cls = optimizers.get(name)
    ours = cls(cls.Config(**options))
    weights, gradients = _recorded(dtype)
    slots = [zeros(ours, w) for w in weights]
    theirs = [torch.nn.Parameter(torch.tensor(w.copy())) for w in weights]
    reference = REFERENCES[name](theirs, **_betas(options))
    for step, gradient in enumerate(gradients, start=1):
        for tensor, g in zip(theirs, gradient, strict=True):
            tensor.grad = torch.tensor(g)
        reference.step()
        for w, g, slot in zip(weights, gradient, slots, strict=True):
            advance(ours, slot, ours.config.learning_rate, step)
            ours.update(
                w,
                g,
                slot,
                learning_rate=ours.config.learning_rate,
                weight_decay=ours.weight_decay,
                grad_scale=1.0,
                step=step,
            )
    for w, tensor, start in zip(weights, theirs, _recorded(dtype)[0], strict=True):
        _assert_near(w, tensor, dtype)
        assert not np.array_equal(w, start)


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_defaults_are_those_of_torch(name: str) -> None:
    reference = REFERENCES[name]([torch.nn.Parameter(torch.zeros(1))]).defaults
    config = optimizers.get(name).Config().model_dump()
    for key, value in _betas(config).items():
        assert reference[key] == value, key


@pytest.mark.parametrize("clip_norm", [0.01, 1.0, 1e9])
def test_clipped_steps_equal_torch(clip_norm: float) -> None:
    """Weight decay comes after clipping, so the scale may not reach it."""
    cls = optimizers.get("adam")
    ours = cls(cls.Config(weight_decay=0.1))
    weights, gradients = _recorded(np.float64)
    slots = [{slot: np.zeros_like(w) for slot in ours.slots} for w in weights]
    theirs = [torch.nn.Parameter(torch.tensor(w.copy())) for w in weights]
    reference = torch.optim.Adam(theirs, weight_decay=0.1)
    for step, gradient in enumerate(gradients, start=1):
        for tensor, g in zip(theirs, gradient, strict=True):
            tensor.grad = torch.tensor(g)
        torch.nn.utils.clip_grad_norm_(theirs, clip_norm)
        reference.step()
        norm = float(np.sqrt(sum(float(g @ g) for g in gradient)))
        scale = clip_scale(norm, clip_norm)
        for w, g, slot in zip(weights, gradient, slots, strict=True):
            ours.update(
                w, g, slot, learning_rate=1e-3, weight_decay=0.1, grad_scale=scale, step=step
            )
    for w, tensor in zip(weights, theirs, strict=True):
        _assert_near(w, tensor, np.float64)
