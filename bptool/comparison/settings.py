"""Which settings an optimizer trains with where nothing is searched.

Every optimizer has its own defaults with a learning rate from ``LEARNING_RATES``, under what the
study fixes in ``settings``. Rules differ by orders of magnitude in the rate they want, so one rate
for all would decide the ranking; the table is a fair start for small language models, not a tuned
choice, and reports say beside each verdict where its rate comes from. With ruleset ``defaults`` a
workload's own optimizer keeps the settings of the workload's file; with ruleset ``tuned`` it does
not, or its search would start ahead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticUndefined

from bptool.config.choice import Choice
from bptool.config.schema import RunConfig
from bptool.errors import ConfigError, did_you_mean
from bptool.registry import optimizers

DEFAULT_OPTIMIZERS = ("sgd", "momentum", "rmsprop", "adam", "adamw")

LEARNING_RATES: dict[str, float] = {
    # About half of what a small GPT-2 bears without clipping, where its loss stops falling at all;
    # momentum 0.9 adds up ten gradients, and smooths them.
    "sgd": 0.1,
    "momentum": 0.02,
    "nesterov": 0.02,
    # The rate is about the step of every single weight. rmsprop has no bias correction, so its
    # first steps are ten times longer; PyTorch's 0.01 is far too much for these models.
    "rmsprop": 1e-3,
    "adam": 2e-3,
    "adamw": 2e-3,
    # The best of two or three each on one tiny GPT-2 in 150 steps, which tunes nothing: where the
    # highest was the best (radam, adamax, lion, lamb, adafactor, muon, soap) more may do better.
    "adagrad": 1e-2,
    "adadelta": 1.0,
    "amsgrad": 2e-3,
    "nadam": 2e-3,
    "nadamw": 2e-3,
    "radam": 4e-3,
    "adamax": 8e-3,
    "lion": 5e-4,
    "ademamix": 2e-3,
    "schedule-free-adamw": 2e-3,
    "lamb": 2e-2,
    "adafactor": 6e-2,
    "muon": 8e-3,
    "soap": 4e-3,
}
"""Learning rates of a study by optimizer; one that is not listed has its own default."""


def parse_names(text: str) -> list[str]:
    """Split ``sgd,adam`` into names.

    Raises:
        ConfigError: no name, an unknown one (the nearest is offered), or one given twice.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        known = ", ".join(optimizers.names())
        raise ConfigError(f"--optimizers names none; give some of: {known}")
    for name in names:
        optimizers.get(name)
        if names.count(name) > 1:
            raise ConfigError(f"--optimizers names '{name}' {names.count(name)} times; keep one")
    return names


def parse_rates(arguments: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """Read ``name=value`` learning rates for the optimizers of a study.

    Raises:
        ConfigError: not of this form, not one of ``names``, given twice, or not a number above 0.
    """
    rates: dict[str, float] = {}
    for argument in arguments:
        name, equals, text = (part.strip() for part in argument.partition("="))
        if not equals or not name:
            raise ConfigError(f"--learning-rate {argument}: need name=value, as in adam=1e-3")
        if name not in names:
            raise ConfigError(
                f"--learning-rate {argument}: '{name}' is not one of --optimizers"
                f"{did_you_mean(name, names)}"
            )
        if name in rates:
            raise ConfigError(f"--learning-rate {argument}: '{name}' has a rate already; keep one")
        try:
            rates[name] = float(text)
        except ValueError:
            raise ConfigError(
                f"--learning-rate {argument}: '{text}' is not a number; as in {name}=1e-3"
            ) from None
        if not 0.0 < rates[name] < float("inf"):
            raise ConfigError(f"--learning-rate {argument}: need a number above 0, and finite")
    return rates


def choose(name: str, base: RunConfig | None, settings: Mapping[str, Any]) -> Choice:
    """The optimizer called ``name`` as it takes part in a study.

    Args:
        base: a workload whose own settings count where it has the same optimizer, or None.
        settings: what the study fixes or has drawn; wins over the rest.

    Raises:
        ConfigError: a setting is unknown or out of bounds, or has no default.
    """
    kind = optimizers.get(name).Config
    values: dict[str, object] = {}
    if base is not None and name == base.optimizer.name:
        values = base.optimizer.dump()
        del values["name"]
    values |= settings
    if "learning_rate" not in values:
        rate = LEARNING_RATES.get(name, kind.model_fields["learning_rate"].default)
        if rate is PydanticUndefined:
            raise ConfigError(
                f"optimizer '{name}' has no default learning rate; add --learning-rate "
                f"{name}=VALUE, or settings: {{{name}: {{learning_rate: VALUE}}}} to the study"
            )
        values["learning_rate"] = rate
    try:
        return Choice(name, kind.model_validate(values))
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        found = "" if problem["type"] == "missing" else f", found {problem['input']}"
        raise ConfigError(f"optimizer '{name}', {key}: {problem['msg'].lower()}{found}") from None


def other_settings(choice: Choice) -> dict[str, object]:
    """Settings of an optimizer, its learning rate apart, that are not its defaults."""
    fields = type(choice.config).model_fields
    values: dict[str, object] = choice.config.model_dump(mode="json")
    return {
        key: value
        for key, value in values.items()
        if key != "learning_rate" and getattr(choice.config, key) != fields[key].default
    }
