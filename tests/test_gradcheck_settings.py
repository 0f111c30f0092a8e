"""The settings of gradient checks are unlike each other and unlike those that switch a term off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from bptool.gradient_check.model import N_SEQUENCES, SETTINGS
from bptool.gradient_check.objectives import KERNELS, MIX_WEIGHT, checked_objective
from bptool.gradient_check.operations import ATTENTION, TERMS, checked_penalty
from bptool.objectives.mixed import Mixed
from bptool.registry import models, objectives, regularizers
from bptool.regularizers.base import Penalty

PENALTIES = [n for n in regularizers.names() if issubclass(regularizers.get(n), Penalty)]
NEUTRAL = (0, 1, None)
"""What multiplies by nothing, changes nothing, or is not there."""


def numbers_in(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The numeric settings of a section and of the sections in it, by name, and what is None."""
    if isinstance(value, BaseModel):
        value = {key: getattr(value, key) for key in type(value).model_fields}
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers_in(inner, f"{name}.{key}" if name else key)
    elif value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        yield name, value


def faults_of(settings: Any) -> list[str]:
    """What a check with these settings would not see."""
    found = list(numbers_in(settings))
    faults = [f"{name} is {value}, which is neutral" for name, value in found if value in NEUTRAL]
    return faults + [
        f"{name} and {other} are both {value}"
        for i, (name, value) in enumerate(found)
        for other, same in found[:i]
        if value == same
    ]


def test_equal_and_neutral_settings_are_faults():
    config = models.get("gpt2").Config
    faults = faults_of(config(n_layer=2, n_head=2, dropout={"hidden": 0.1}))
    assert "n_head and n_layer are both 2" in faults
    assert "dropout.residual is 0.0, which is neutral" in faults
    assert "stochastic_depth is 0.0, which is neutral" in faults
    assert faults_of({"a": 2, "b": {"c": 0.5, "d": True, "e": "name"}}) == []
    assert len(faults_of({"a": None, "b": 1.0})) == 2


@pytest.mark.parametrize("name", [*objectives.names(), Mixed.name])
def test_settings_of_a_checked_objective_are_unlike(name):
    assert name in KERNELS
    objective = checked_objective(name)
    assert objective.name == name
    extra = {"weight": MIX_WEIGHT} if isinstance(objective, Mixed) else {}
    assert faults_of({"config": objective.config, **extra}) == []


@pytest.mark.parametrize("name", PENALTIES)
def test_settings_of_a_checked_penalty_are_unlike(name):
    assert faults_of(checked_penalty(name).config) == []


@pytest.mark.parametrize("name", models.names())
def test_settings_of_a_checked_model_are_unlike(name):
    config = models.get(name).Config(**SETTINGS[name])
    assert faults_of({"model": config, "n_sequences": N_SEQUENCES}) == []


def test_sizes_and_terms_of_the_checked_operations_are_unlike():
    assert faults_of(TERMS["both"]._asdict()) == []
    for _, shape, _ in ATTENTION.values():
        sizes = {name: n for name, n in zip("BHTC", shape, strict=True) if n != 1}
        sizes["head width"] = shape[3] // shape[1]
        assert faults_of(sizes) == [], "a size in place of another would not be seen"
