"""What every registered optimizer must keep; a new one is picked up by its registration alone."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher
from numpy.typing import NDArray
from pydantic import ValidationError

from bptool.ops.jit import FASTMATH
from bptool.optim.base import Optimizer, OptimizerConfig
from bptool.optim.tensor_rule import TensorRule
from bptool.registry import optimizers

NAMES = [name for name in optimizers.names() if not issubclass(optimizers.get(name), TensorRule)]
"""Rules that act on each element alone; ``test_optim_tensor_rules.py`` is for the others."""
DTYPES = [np.float32, np.float64]
Slots = dict[str, NDArray[Any]]


def everything_on(config: type[OptimizerConfig]) -> dict[str, Any]:
    """Settings with each switch on, and momentum and decay where they are 0 by default."""
    options: dict[str, Any] = {}
    for key, field in config.model_fields.items():
        if field.annotation is bool:
            options[key] = True
        elif key == "momentum":
            options[key] = 0.9
        elif key == "weight_decay":
            options[key] = 0.1
    return options


def make(name: str, variant: str = "defaults", **options: Any) -> Optimizer:
    cls = optimizers.get(name)
    if variant == "everything on":
        options = {**everything_on(cls.Config), **options}
    optimizer: Optimizer = cls(cls.Config(**options))
    return optimizer


every_optimizer = pytest.mark.parametrize("name", NAMES)
every_variant = pytest.mark.parametrize("variant", ["defaults", "everything on"])
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def zeros(optimizer: Optimizer, w: NDArray[Any]) -> Slots:
    scalars = {name: np.zeros(1) for name in optimizer.scalars}
    return {slot: np.zeros_like(w) for slot in optimizer.slots} | scalars


def part(optimizer: Optimizer, slots: Slots, piece: slice) -> Slots:
    """The state of a slice: of each slot its slice, of the scalars a copy."""
    return {
        key: value.copy() if key in optimizer.scalars else value[piece]
        for key, value in slots.items()
    }


def advance(optimizer: Optimizer, slots: Slots, learning_rate: float, step: int) -> None:
    """What the training step does once before ``update``."""
    before = {name: float(slots[name][0]) for name in optimizer.scalars}
    after = optimizer.advance(before, learning_rate=learning_rate, step=step)
    assert set(after) == set(optimizer.scalars)
    for name, value in after.items():
        slots[name][0] = value


def problem(n: int, dtype: type) -> tuple[NDArray[Any], list[NDArray[Any]]]:
    rng = np.random.default_rng(n)
    gradients = [rng.normal(size=n).astype(dtype) for _ in range(6)]
    return rng.normal(size=n).astype(dtype), gradients


def run(
    optimizer: Optimizer,
    w: NDArray[Any],
    gradients: list[NDArray[Any]],
    slots: Slots | None = None,
    *,
    first: int = 1,
    grad_scale: float = 1.0,
) -> Slots:
    """Update ``w`` in place by each gradient and return the slots."""
    slots = zeros(optimizer, w) if slots is None else slots
    for step, g in enumerate(gradients, start=first):
        advance(optimizer, slots, optimizer.config.learning_rate, step)
        optimizer.update(
            w,
            g,
            slots,
            learning_rate=optimizer.config.learning_rate,
            weight_decay=optimizer.weight_decay,
            grad_scale=grad_scale,
            step=step,
        )
    return slots


def kernels_of(optimizer: Optimizer) -> Iterator[Dispatcher]:
    """The compiled functions that the optimizer's module, or those of its bases, name."""
    for cls in type(optimizer).__mro__:
        for value in vars(sys.modules[cls.__module__]).values():
            if isinstance(value, Dispatcher):
                yield value


@every_optimizer
def test_describes_itself(name: str) -> None:
    cls = optimizers.get(name)
    assert cls.name == name
    assert issubclass(cls, Optimizer)
    assert issubclass(cls.Config, OptimizerConfig)
    assert cls.Config().learning_rate > 0
    documentation = sys.modules[cls.__module__].__doc__ or ""
    assert "w <- w" in documentation, "the module's docstring gives the update equation"
    assert "Defaults" in documentation
    assert any(word in documentation for word in ("Paper", "Source"))
    for key, field in cls.Config.model_fields.items():
        assert field.description, f"{key} has no description"


@every_optimizer
@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", -1.0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("weight_decay", -0.1),
        ("weight_decay", float("nan")),
        ("momentum", 1.0),
        ("momentum", float("nan")),
        ("beta1", 1.0),
        ("beta2", -0.1),
        ("alpha", -0.1),
        ("eps", 0.0),
        ("eps", -1e-8),
        ("no_such_setting", 1.0),
    ],
)
def test_refuses_settings_that_cannot_work(name: str, key: str, bad: float) -> None:
    with pytest.raises(ValidationError, match=key):
        make(name, **{key: bad})


@every_optimizer
@every_variant
@every_dtype
def test_update_works_in_place_and_keeps_no_state(name: str, variant: str, dtype: type) -> None:
    optimizer = make(name, variant)
    settings = copy.deepcopy(vars(optimizer))
    w, gradients = problem(50, dtype)
    start, kept = w.copy(), copy.deepcopy(gradients)
    slots = run(optimizer, w, gradients)
    assert vars(optimizer) == settings
    assert all(np.array_equal(g, k) for g, k in zip(gradients, kept, strict=True))
    assert w.dtype == dtype
    assert np.isfinite(w).all()
    # A sign rule's equal steps may bring an element back to where it was.
    assert (w != start).mean() > 0.5
    assert all(slots[name].dtype == dtype and slots[name].any() for name in optimizer.slots)


@every_optimizer
@every_variant
@every_dtype
def test_disjoint_slices_equal_the_whole_bit_for_bit(name: str, variant: str, dtype: type) -> None:
    optimizer = make(name, variant)
    start, gradients = problem(131, dtype)
    whole = start.copy()
    slots = run(optimizer, whole, gradients)
    for cut in range(start.size + 1):
        w = start.copy()
        parts = zeros(optimizer, w)
        for piece in (slice(0, cut), slice(cut, w.size)):
            run(
                optimizer,
                w[piece],
                [g[piece] for g in gradients],
                part(optimizer, parts, piece),
            )
        assert np.array_equal(w, whole), f"cut at {cut}"
        assert all(np.array_equal(parts[key], slots[key]) for key in optimizer.slots)


@every_optimizer
def test_one_object_serves_several_threads(name: str) -> None:
    optimizer = make(name, "everything on")
    start, gradients = problem(40_000, np.float32)
    whole = start.copy()
    run(optimizer, whole, gradients)
    w = start.copy()
    slots = zeros(optimizer, w)

    def work(piece: slice) -> None:
        run(optimizer, w[piece], [g[piece] for g in gradients], part(optimizer, slots, piece))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, [slice(i, i + 10_000) for i in range(0, 40_000, 10_000)]))
    assert np.array_equal(w, whole)


@every_optimizer
@every_variant
@every_dtype
def test_padding_stays_zero(name: str, variant: str, dtype: type) -> None:
    optimizer = make(name, variant)
    w, gradients = problem(64, dtype)
    padding = np.zeros(64, bool)
    padding[[0, 13, 14, 15, 63]] = True
    for array in (w, *gradients):
        array[padding] = 0
    slots = run(optimizer, w, gradients, grad_scale=0.3)
    for array in (w, *(slots[name] for name in optimizer.slots)):
        assert not array[padding].any()
        assert array[~padding].all()


@every_optimizer
@every_variant
@every_dtype
def test_resumes_exactly_from_copied_slots(name: str, variant: str, dtype: type) -> None:
    w, gradients = problem(77, dtype)
    resumed = w.copy()
    run(make(name, variant), w, gradients)
    slots = run(make(name, variant), resumed, gradients[:3])
    saved = {key: value.copy() for key, value in slots.items()}
    run(make(name, variant), resumed, gradients[3:], saved, first=4)
    assert np.array_equal(w, resumed)


@every_optimizer
@every_variant
@every_dtype
def test_grad_scale_scales_the_gradient_first(name: str, variant: str, dtype: type) -> None:
    start, gradients = problem(33, dtype)
    scaled, plain = start.copy(), start.copy()
    # A power of two scales without rounding, so the bits agree.
    run(make(name, variant), scaled, gradients, grad_scale=0.25)
    run(make(name, variant), plain, [g * dtype(0.25) for g in gradients])
    assert np.array_equal(scaled, plain)


@every_optimizer
@every_variant
def test_a_gradient_that_is_not_finite_is_not_hidden(name: str, variant: str) -> None:
    w, gradients = problem(32, np.float32)
    gradients[2][7] = np.nan
    run(make(name, variant), w, gradients)
    assert np.flatnonzero(np.isnan(w)).tolist() == [7]


@every_optimizer
@every_variant
def test_the_second_call_does_not_recompile(name: str, variant: str) -> None:
    optimizer = make(name, variant)
    kernels = list(kernels_of(optimizer))
    assert kernels, "an update is compiled"
    w, gradients = problem(20, np.float32)
    slots = run(optimizer, w, gradients[:1])
    before = [list(one.signatures) for one in kernels]
    for rate, decay, scale in [(1e-3, 0.0, 1.0), (np.float64(0.1), 0.1, 0.5), (1.0, 1.0, 1.0)]:
        optimizer.update(
            w[3:],
            gradients[1][3:],
            part(optimizer, slots, slice(3, None)),
            learning_rate=rate,
            weight_decay=decay,
            grad_scale=scale,
            step=5,
        )
    assert [list(one.signatures) for one in kernels] == before


def machine_code(one: Dispatcher, signature: Any) -> tuple[str, str]:
    """LLVM and assembly code of a kernel for one signature, compiled anew: cached code has none."""
    fresh = numba.njit(nogil=True, fastmath=FASTMATH, error_model="numpy")(one.py_func)
    fresh.compile(signature)
    return str(fresh.inspect_llvm(signature)), str(fresh.inspect_asm(signature))


@every_optimizer
@every_variant
def test_float32_arithmetic_is_in_float32_vectors(name: str, variant: str) -> None:
    optimizer = make(name, variant)
    kernels = list(kernels_of(optimizer))
    w, gradients = problem(20, np.float32)
    run(optimizer, w, gradients[:1])
    code = [
        machine_code(one, signature)
        for one in kernels
        for signature in one.signatures
        if "float32" in str(signature)
    ]
    assert code
    for llvm, assembly in code:
        assert "fpext" not in llvm, "a constant that was not cast promotes the loop to float64"
        assert " x float>" in llvm, "the loop is not vectorised"
        # Estimates differ from processor to processor, and between a loop's body and its rest.
        estimates = re.findall(r"\b(?:v?rsqrt|v?rcp|frsqrte|frecpe)\w*", assembly)
        assert not estimates, "write x / sqrt(y) so that it is not replaced by an estimate"


def minimise(optimizer: Optimizer, gradient: Any, w: NDArray[Any], n_steps: int) -> NDArray[Any]:
    """Descend with a rate that falls to zero, as rules of a fixed step length need."""
    slots = zeros(optimizer, w)
    for step in range(1, n_steps + 1):
        rate = optimizer.config.learning_rate * (1 - (step - 1) / n_steps)
        advance(optimizer, slots, rate, step)
        optimizer.update(
            w,
            gradient(w),
            slots,
            learning_rate=rate,
            weight_decay=0.0,
            grad_scale=1.0,
            step=step,
        )
    if not optimizer.evaluates_elsewhere:
        return w
    out = np.empty_like(w)
    optimizer.evaluation_weights(out, w, slots)
    return out


def best_loss(name: str, loss: Any, gradient: Any, start: list[float], n_steps: int) -> float:
    """Lowest final loss over a ladder of learning rates; divergence counts as infinite."""
    losses = []
    for rate in (10.0, 1.0, 3e-1, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3):
        with np.errstate(all="ignore"):
            w = minimise(make(name, learning_rate=rate), gradient, np.array(start), n_steps)
            losses.append(float(loss(w)))
    return min(value if np.isfinite(value) else np.inf for value in losses)


@every_optimizer
def test_converges_on_a_parabola(name: str) -> None:
    curvature, target = np.array([1.0, 10.0, 0.5]), np.array([0.3, -2.0, 1.0])
    loss = best_loss(
        name,
        lambda w: (curvature * (w - target) ** 2).sum() / 2,
        lambda w: curvature * (w - target),
        [2.0, 2.0, -1.0],
        600,
    )
    assert loss < 1e-5


@every_optimizer
def test_converges_on_rosenbrock(name: str) -> None:
    def gradient(w: NDArray[Any]) -> NDArray[Any]:
        x, y = w
        return np.array([-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)])

    loss = best_loss(
        name,
        lambda w: (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2,
        gradient,
        [-1.0, 1.5],
        30_000,
    )
    assert loss < 5e-3
