"""Every number of every section is held to a range: nonsense is refused where it is written."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from pydantic import ValidationError

from bptool import registry
from bptool.config.load import resolve
from bptool.config.schema import RunConfig
from bptool.config.section import Section
from bptool.config.study_section import StudyConfig
from bptool.errors import ConfigError

NONSENSE = {
    "not a number": float("nan"),
    "infinity": float("inf"),
    "minus infinity": float("-inf"),
    "a truth value": True,
    "far too large": 1e30,
    "far too small": -1e30,
    "of 400 digits": 10**400,
}


def parts_of(annotation: Any) -> Iterator[Any]:
    """The plain types that an annotation is made of."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from parts_of(get_args(annotation)[0])
    elif origin in (Union, types.UnionType, list, tuple, dict):
        for inner in get_args(annotation):
            yield from parts_of(inner)
    else:
        yield annotation


def sections() -> dict[str, type[Section]]:
    """All sections that a file may have, those of registered parts too, by name."""
    waiting: list[Any] = [RunConfig, StudyConfig]
    for part in vars(registry).values():
        if isinstance(part, registry.Registry):
            waiting += [getattr(part.get(name), "Config", None) for name in part.names()]
    found: dict[str, type[Section]] = {}
    while waiting:
        one = waiting.pop()
        if isinstance(one, type) and issubclass(one, Section) and one.__qualname__ not in found:
            found[one.__qualname__] = one
            for field in one.model_fields.values():
                waiting += parts_of(field.annotation)
    return found


def numbers() -> Iterator[tuple[str, type[Section], str]]:
    for name, section in sorted(sections().items()):
        for key, field in section.model_fields.items():
            if get_origin(field.annotation) in (list, tuple, dict):
                continue  # settings of optimizers, which those hold to their bounds
            if any(part in (int, float) for part in parts_of(field.annotation)):
                yield f"{name}.{key}", section, key


NUMBERS = list(numbers())


def test_the_numbers_are_those_of_all_sections() -> None:
    names = {name for name, _, _ in NUMBERS}
    assert len(names) > 150
    assert {
        "TrainingConfig.z_loss",
        "AdamWConfig.eps",
        "PPOConfig.clip",
        "RangeConfig.low",
    } <= names


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE)
@pytest.mark.parametrize(("section", "key"), [n[1:] for n in NUMBERS], ids=[n[0] for n in NUMBERS])
def test_nonsense_is_refused(section: type[Section], key: str, nonsense: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        section.model_validate({key: nonsense})
    places = [error["loc"][:1] for error in caught.value.errors()]
    assert (key,) in places, f"{nonsense} passes as {key}"


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("training.z_loss=1e30", "found 1e+30, need a number >= 0 and <= 100"),
        ("optimizer.eps=1e12", "need a number >= 1e-30 and <= 1000"),
        ("optimizer.learning_rate=1e30", "need a number > 0 and <= 1000000"),
        ("training.eval_tokens=true", "found true, need a whole number >= 1 or null"),
        ("training.clip_norm=.nan", "found nan"),
        ("training.steps=1e400", "found inf"),
        ("model.dropout=1.0", "found 1.0, need a number >= 0 and < 1"),
        ("model.context=1000000000", "<= 1000000"),
        ("sample.top_k=true", "found true"),
        ("training.seed=" + "9" * 250, "found 9999"),
    ],
)
def test_the_message_names_the_range(setting: str, says: str) -> None:
    values = {
        "model": {"name": "gpt2"},
        "data": {"text": ["text.txt"]},
        "training": {"steps": 10, "batch_size": 4},
        "optimizer": {"name": "adamw", "learning_rate": 1e-3},
    }
    with pytest.raises(ConfigError) as caught:
        resolve(None, [setting], values)
    message = str(caught.value)
    assert says in message, message
    assert "\n" not in message
    assert len(message) < 500
