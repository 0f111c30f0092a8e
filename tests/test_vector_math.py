"""The elementary functions of the kernels against the same functions in higher precision."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import special

from bptool.ops.jit import kernel
from bptool.ops.vector_log import log
from bptool.ops.vector_math import exp, normal_cdf, normal_density, tanh

LARGEST = 2.3e38
SMALLEST = 1.2e-38


@kernel
def all_four(e, t, c, d, x):  # type: ignore[no-untyped-def]
    for i in range(x.size):
        e[i] = exp(x[i])
        t[i] = tanh(x[i])
        c[i] = normal_cdf(x[i])
        d[i] = normal_density(x[i])


@kernel
def logs(y, x):  # type: ignore[no-untyped-def]
    for i in range(x.size):
        y[i] = log(x[i])


def values(x: Any) -> dict[str, Any]:
    """Each function of ``x`` (n,) in its own precision."""
    outs = [np.empty_like(x) for _ in range(4)]
    all_four(*outs, x)
    return dict(zip(("exp", "tanh", "cdf", "density"), outs, strict=True))


def exact(x: Any) -> dict[str, Any]:
    """Each function of ``x`` in float64, where 1e-16 is nothing beside float32's 6e-8."""
    x = x.astype(np.float64)
    with np.errstate(over="ignore"):
        return {
            "exp": np.exp(x),
            "tanh": np.tanh(x),
            "cdf": special.ndtr(x),
            "density": np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi),
        }


def float32_range(low: float, high: float, n: int = 400_001) -> Any:
    """Points evenly spread, and others spread over the exponents down to the smallest."""
    even = np.linspace(low, high, n)
    tiny = np.geomspace(1e-38, max(abs(low), abs(high)), n // 4)
    points = np.concatenate([even, tiny, -tiny, [0.0, -0.0]]).astype(np.float32)
    return points[(points >= low) & (points <= high)]


def units(found: Any, want: Any) -> float:
    """Largest error in units of the last place of the exact value."""
    return float(np.max(np.abs(found - want) / np.spacing(np.abs(want).astype(np.float32))))


def test_log_is_good_to_a_unit_in_the_last_place_and_exact_at_one() -> None:
    x = np.concatenate(
        [np.geomspace(SMALLEST, LARGEST, 400_001), np.linspace(0.5, 2, 400_001), [1.0]]
    ).astype(np.float32)
    y = np.empty_like(x)
    logs(y, x)
    assert units(y, np.log(x.astype(np.float64))) <= 1
    assert y[-1] == 0
    doubles = np.array([0.3, 1.0, 7e100])
    found = np.empty(3)
    logs(found, doubles)
    assert np.array_equal(found, np.log(doubles))


def test_exp_is_good_to_two_units_in_the_last_place() -> None:
    x = float32_range(-87.3, 88.3)
    assert units(values(x)["exp"], exact(x)["exp"]) <= 2.0


def test_tanh_is_good_to_a_few_units_in_the_last_place() -> None:
    x = float32_range(-20.0, 20.0)
    found = values(x)["tanh"]
    assert units(found, exact(x)["tanh"]) <= 4.0
    assert np.max(np.abs(found)) <= 1.0


def test_normal_cdf_and_density_are_good_to_float32() -> None:
    x = float32_range(-30.0, 30.0)
    found, want = values(x), exact(x)
    assert np.max(np.abs(found["cdf"] - want["cdf"])) <= 1.5e-7
    assert np.max(np.abs(found["density"] - want["density"])) <= 1e-7
    # the tail keeps its relative precision where GELU multiplies it by x
    tail = x < -0.5
    tail &= x > -3
    relative = np.abs(found["cdf"] / want["cdf"] - 1)[tail]
    assert np.max(relative) <= 3e-6


@pytest.mark.parametrize("name", ["exp", "tanh", "cdf", "density"])
def test_float64_is_the_librarys(name: str) -> None:
    x = np.concatenate([np.linspace(-40, 40, 4001), np.geomspace(1e-300, 40, 500)])
    found, want = values(x)[name], exact(x)[name]
    error = np.abs(found - want)
    assert np.all(error <= 4e-15 * np.abs(want) * np.maximum(1, 0.25 * x * x) + 1e-300)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_not_a_number_comes_through(dtype: str) -> None:
    # among ordinary numbers, so that vector lanes are tried too
    for place in range(19):
        x = np.linspace(-2, 2, 19).astype(dtype)
        x[place] = np.nan
        for name, found in values(x).items():
            assert list(np.flatnonzero(np.isnan(found))) == [place], name


def test_infinities_and_huge_numbers_are_sane() -> None:
    x = np.array([np.inf, -np.inf, 1e30, -1e30, 3e38, -3e38, 200, -200], np.float32)
    found = values(x)
    up, down = slice(0, None, 2), slice(1, None, 2)
    assert np.all(found["exp"][up] >= LARGEST)
    assert np.all(found["exp"][down] <= SMALLEST)
    assert np.all(found["exp"][down] >= 0)
    assert np.all(found["tanh"][up] == 1)
    assert np.all(found["tanh"][down] == -1)
    assert np.all(found["cdf"][up] == 1)
    assert np.all(np.abs(found["cdf"][down]) <= SMALLEST)
    assert np.all(np.abs(found["density"]) <= SMALLEST)


def test_exp_rises_and_is_one_at_zero() -> None:
    x = np.sort(float32_range(-80.0, 80.0, 100_001))
    found = values(x)["exp"]
    assert np.all(np.diff(found.astype(np.float64)) >= -np.spacing(found[1:]))
    assert values(np.zeros(3, np.float32))["exp"].tolist() == [1, 1, 1]
    assert values(np.zeros(3, np.float32))["cdf"] == pytest.approx([0.5] * 3, abs=1e-7)
