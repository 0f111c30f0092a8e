"""A ``STUDY.yaml``: which optimizers are compared on which workloads, and on what terms."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from bptool.config.choice import fill_choices
from bptool.config.schema import (
    MAX_SEED,
    SCHEDULE,
    SCHEMA_DIALECT,
    ScheduleChoice,
    Seed,
    Steps,
)
from bptool.config.section import FILE, Section, refuse
from bptool.errors import ConfigError, did_you_mean
from bptool.registry import optimizers

DEFAULT_REFERENCE = "adamw"
RECOMMENDED_SEEDS = 5

Count = Annotated[int, Field(ge=1, le=10_000)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=60)]


class WorkloadConfig(Section):
    """One training configuration that every optimizer is judged on."""

    config: Annotated[str, FILE] = Field(
        min_length=1, description="a training configuration's file"
    )
    name: Name | None = Field(
        default=None, description="what reports call it; the file's name when left out"
    )
    set: dict[str, Any] = Field(
        default_factory=dict,
        description="values in place of the file's, in its shape: {training: {batch_size: 32}}",
    )
    target: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        default=None,
        description="validation loss (nats per token) to reach; null: what the reference "
        "reaches with every seed",
    )


class RangeConfig(Section):
    """An interval that a setting is drawn from. A list of values in its place is drawn from with
    equal shares."""

    low: float = Field(ge=-1e9, le=1e9, description="lower end")
    high: float = Field(ge=-1e9, le=1e9, description="upper end")
    scale: Literal["log", "linear", "one-minus-log"] = Field(
        default="log",
        description="what is uniform: log: the value's logarithm; linear: the value; "
        "one-minus-log: the logarithm of 1 - value, for decays such as beta1",
    )

    @model_validator(mode="after")
    def _holds_something(self) -> RangeConfig:
        if not self.low < self.high:
            refuse("high", self.high, f"an empty range: high {self.high:g} is not above low")
        if self.scale == "log" and self.low <= 0:
            refuse("low", self.low, f"found {self.low:g}; scale: log needs low > 0")
        if self.scale == "one-minus-log" and self.high >= 1:
            refuse("high", self.high, f"found {self.high:g}; scale: one-minus-log needs high < 1")
        return self

    def value(self, u: float) -> float:
        """The value at ``u`` in [0, 1], which runs from ``low`` to ``high`` along the scale."""
        if self.scale == "linear":
            return self.low + u * (self.high - self.low)
        if self.scale == "log":
            return math.exp(math.log(self.low) + u * math.log(self.high / self.low))
        rest, least = 1.0 - self.low, 1.0 - self.high
        return 1.0 - math.exp(math.log(rest) + u * math.log(least / rest))

    def position(self, value: float) -> float:
        """Inverse of :meth:`value`."""
        if self.scale == "linear":
            return (value - self.low) / (self.high - self.low)
        if self.scale == "log":
            return math.log(value / self.low) / math.log(self.high / self.low)
        rest, least = 1.0 - self.low, 1.0 - self.high
        return math.log((1.0 - value) / rest) / math.log(least / rest)


Choices = Annotated[list[float | bool | str], Field(min_length=1, max_length=100)]
"""Options that a setting is drawn from with equal shares."""
Space = dict[str, RangeConfig | Choices]
"""Setting of an optimizer -> where it is drawn from."""


class TuningConfig(Section):
    """How settings are searched; every optimizer gets the same number of trials."""

    trials: Count | None = Field(
        default=None, description="settings tried of each optimizer on each workload; 8 by default"
    )
    budget: Count | None = Field(
        default=None,
        description="in place of trials: settings tried on a workload by all optimizers "
        "together, shared out equally",
    )
    seeds: Annotated[int, Field(ge=1, le=100)] = Field(
        default=1, description="runs of each setting; their mean decides"
    )
    first_seed: Seed = Field(default=1000, description="model seed of the first of them")
    first_data_seed: Seed = Field(
        default_factory=lambda data: data.get("first_seed", 0),
        description="data seed of the first of them; as first_seed when left out",
    )


class FinalConfig(Section):
    """The runs that are compared, with seeds that tuning has not seen."""

    seeds: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=RECOMMENDED_SEEDS, description="runs of each optimizer on each workload"
    )
    first_seed: Seed = Field(default=0, description="model seed of the first run")
    first_data_seed: Seed = Field(
        default_factory=lambda data: data.get("first_seed", 0),
        description="data seed of the first run; as first_seed when left out",
    )


class StudyConfig(Section):
    """A comparison of optimizers. See ``docs/comparison.md``."""

    format_version: Literal[1] = Field(default=1, description="version of this file's format")
    workloads: tuple[WorkloadConfig, ...] = Field(
        min_length=1, max_length=50, description="training configurations, by path"
    )
    optimizers: tuple[str, ...] = Field(
        min_length=1, max_length=50, description="which are compared, by name"
    )
    reference: str = Field(
        default_factory=lambda data: _default_reference(data.get("optimizers", ())),
        description="what the others are compared with; adamw where it takes part, else the first",
    )
    ruleset: Literal["defaults", "tuned"] = Field(
        default="defaults",
        description="defaults: each optimizer with fixed settings; tuned: each with the best of "
        "an equal number of trials",
    )
    steps: Steps | None = Field(
        default=None,
        description="updates of every run; schedules are sized to it. null: each workload's own",
    )
    tuning: TuningConfig = Field(
        default_factory=lambda: TuningConfig(), description="the search; for ruleset: tuned"
    )
    final: FinalConfig = Field(
        default_factory=lambda: FinalConfig(), description="the runs that are compared"
    )
    settings: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="fixed settings by optimizer: {adamw: {beta2: 0.99}}",
    )
    spaces: dict[str, Space] = Field(
        default_factory=dict,
        description="search spaces by optimizer, each in place of the one that is shipped",
    )
    schedules: dict[str, ScheduleChoice] = Field(
        default_factory=dict,
        description="schedules by optimizer, each in place of the workloads' own: "
        "{sgd: {name: constant, warmup_steps: 20}}",
    )
    test: Literal["paired-t", "wilcoxon"] = Field(
        default="paired-t", description="test of a paired difference"
    )
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        default=0.05, description="false alarms allowed in a workload's table as a whole"
    )
    equivalence_margin: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.01,
        description="differences below this share of the reference's loss do not matter",
    )
    processes: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = Field(
        default="auto", description="trials at once; auto: as many as the cores allow"
    )
    timing_steps: Annotated[int, Field(ge=0, le=10_000)] = Field(
        default=50,
        description="steps by which each optimizer is timed alone afterwards, in five rounds; "
        "0: not timed",
    )

    @field_validator("optimizers", mode="after")
    @classmethod
    def _are_known_and_differ(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for index, name in enumerate(value):
            try:
                optimizers.get(name)
            except ConfigError as error:
                refuse(str(index), name, str(error))
            if value.index(name) != index:
                refuse(str(index), name, f"'{name}' is given twice; keep one")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> StudyConfig:
        if self.reference not in self.optimizers:
            near = did_you_mean(self.reference, self.optimizers)
            refuse("reference", self.reference, f"'{self.reference}' takes no part{near}")
        names = workload_names(self.workloads)
        for index, name in enumerate(names):
            if names.index(name) != index:
                refuse(f"workloads.{index}", name, f"a second workload '{name}'; give one a name:")
        self._check_ruleset()
        self._check_settings()
        self._check_seeds()
        return self

    def _check_ruleset(self) -> None:
        if self.ruleset == "defaults":
            for key, nothing in (("tuning", TuningConfig()), ("spaces", {})):
                if getattr(self, key) != nothing:
                    refuse(
                        key,
                        None,
                        f"mixed rulesets: 'defaults' tunes nothing; remove {key}, or set "
                        "ruleset: tuned",
                    )
            return
        tuning = self.tuning
        if tuning.trials is not None and tuning.budget is not None:
            refuse("tuning.budget", tuning.budget, "given beside tuning.trials; keep one")
        if tuning.budget is not None and tuning.budget < len(self.optimizers):
            refuse(
                "tuning.budget",
                tuning.budget,
                f"{tuning.budget} trials cannot be shared by {len(self.optimizers)} optimizers; "
                f"give at least {len(self.optimizers)}",
            )

    def _check_settings(self) -> None:
        by_kind: tuple[tuple[str, Mapping[str, Any]], ...] = (
            ("settings", self.settings),
            ("spaces", self.spaces),
            ("schedules", self.schedules),
        )
        for kind, by_name in by_kind:
            for name in by_name:
                if name not in self.optimizers:
                    near = did_you_mean(name, self.optimizers)
                    refuse(f"{kind}.{name}", name, f"'{name}' takes no part{near}")
        for name, values in self.settings.items():
            check_setting_names(name, values, f"settings.{name}")
            for key, value in values.items():
                refuse_setting(name, key, value, f"settings.{name}.{key}")
                if self.ruleset == "tuned" and key == "learning_rate":
                    refuse(
                        f"settings.{name}.{key}",
                        value,
                        "mixed rulesets: 'tuned' searches the learning rate; remove it here, or "
                        "set ruleset: defaults",
                    )
                if key in self.spaces.get(name, {}):
                    refuse(f"settings.{name}.{key}", value, "fixed here and searched in spaces")
        for name, space in self.spaces.items():
            check_space(name, space, f"spaces.{name}")

    def _check_seeds(self) -> None:
        spans = []
        for key, part in (("tuning", self.tuning), ("final", self.final)):
            last = max(part.first_seed, part.first_data_seed) + part.seeds - 1
            if last > MAX_SEED:
                refuse(f"{key}.seeds", part.seeds, f"seeds up to {last} pass {MAX_SEED}")
            spans.append(range(part.first_seed, part.first_seed + part.seeds))
        tuning, final = spans
        if self.ruleset == "tuned" and set(tuning) & set(final):
            refuse(
                "tuning.first_seed",
                self.tuning.first_seed,
                f"tuning's seeds {tuning[0]} to {tuning[-1]} and the final ones {final[0]} to "
                f"{final[-1]} overlap; the final ones must be fresh",
            )

    @property
    def n_candidates(self) -> int:
        """Settings tried of each optimizer on each workload."""
        if self.ruleset == "defaults":
            return 1
        if self.tuning.budget is not None:
            return self.tuning.budget // len(self.optimizers)
        return self.tuning.trials or 8


def study_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a ``STUDY.yaml``, with every registered optimizer and schedule."""
    schema = fill_choices(StudyConfig.model_json_schema(), (SCHEDULE,))
    named: dict[str, Any] = {"enum": optimizers.names()}
    keys = schema["properties"]
    keys["optimizers"]["items"] = named
    keys["reference"] |= named
    for key in ("settings", "spaces", "schedules"):
        keys[key]["propertyNames"] = named
    title = {"$schema": SCHEMA_DIALECT, **schema}
    return {**title, "title": "bptool optimizer study"}


def _default_reference(names: Iterable[str]) -> str:
    names = list(names)
    return DEFAULT_REFERENCE if DEFAULT_REFERENCE in names or not names else names[0]


def workload_names(workloads: Iterable[WorkloadConfig]) -> list[str]:
    """What reports call each workload: its name, or its file's in letters that paths may have."""
    return [
        one.name or re.sub(r"[^\w.-]+", "-", PurePath(one.config).stem, flags=re.A).strip("._-")
        for one in workloads
    ]


def check_setting_names(name: str, values: Iterable[str], place: str) -> None:
    """Refuse keys that the optimizer ``name`` has not; ``place``: dotted key in the file."""
    known = optimizers.get(name).Config.model_fields
    for key in values:
        if key not in known:
            refuse(f"{place}.{key}", key, f"{name} has no such setting{did_you_mean(key, known)}")


def refuse_setting(name: str, key: str, value: object, place: str) -> None:
    """Refuse ``value`` where the optimizer ``name`` does not take it for ``key``."""
    required = {"learning_rate": 1.0} | {key: value}
    try:
        optimizers.get(name).Config.model_validate(required)
    except ValidationError as error:
        for problem in error.errors():
            if problem["loc"][:1] == (key,):
                message = str(problem["msg"])
                said = message[:1].lower() + message[1:]
                refuse(place, value, f"found {value!r}; {name}: {said}")


def check_space(name: str, space: Space, place: str) -> None:
    """Refuse a search space that is empty or holds what the optimizer does not take."""
    if not space:
        refuse(place, None, f"an empty search space; name a setting of {name}, or remove this")
    check_setting_names(name, space, place)
    for key, where in space.items():
        tried = [where.low, where.high] if isinstance(where, RangeConfig) else where
        for value in tried:
            refuse_setting(name, key, value, f"{place}.{key}")
