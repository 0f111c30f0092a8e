"""A part chosen by name from a registry, with its own settings: ``{name: adamw, beta2: 0.99}``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import (
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from bptool.config.section import Section, refuse
from bptool.errors import ConfigError
from bptool.registry import Registry

PLACEHOLDER = "x-choice-of"
"""Key that stands in a schema for a choice until :func:`fill_choices` puts in the parts."""
READABLE = "readable"
"""Key of a validation's context: take parts by names that nobody registered, where it is true."""


class Unloaded(Section):
    """Settings of a part that is not loaded, as they were written: a plug-in's, say, that nobody
    named. They are kept, and cannot be trained with."""

    model_config = ConfigDict(extra="allow")

    def misfits(self, n_steps: int) -> tuple[()]:
        """Nothing: only a schedule itself knows what fits it."""
        return ()


@dataclass(frozen=True)
class Choice:
    """The name of a registered part beside its validated settings."""

    name: str
    config: Any
    """An instance of the part's ``Config``."""

    def dump(self) -> dict[str, Any]:
        """The mapping that reads back as this choice."""
        return {"name": self.name, **self.config.model_dump(mode="json")}


@dataclass(frozen=True)
class ChoiceFrom:
    """Annotation of a field that holds a :class:`Choice`, as in ``Annotated[Choice, MODEL]``.

    Takes a mapping with ``name`` and the part's own keys, or the name alone.

    Args:
        registry: where the name is looked up.
        default: the name of a mapping that gives none; without a default it must give one.
    """

    registry: Registry
    default: str | None = None
    only_trains: bool = False
    """Whether a run can be read without the part, which then comes as :class:`Unloaded`."""

    @property
    def what(self) -> str:
        """``a model``, ``an optimizer``."""
        kind = self.registry.kind
        return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"

    def class_of(self, raw: object) -> type[Section] | None:
        """The Config class that a raw section is read with, or None if its name is unknown."""
        name = raw.get("name", self.default) if isinstance(raw, dict) else raw
        if not isinstance(name, str):
            return None
        try:
            config: type[Section] = self.registry.get(name).Config
        except ConfigError:
            return None
        return config

    def validate(self, value: object, info: ValidationInfo) -> Choice:
        """Turn a name or a mapping into a :class:`Choice`; raises pydantic's ValidationError."""
        if isinstance(value, Choice):
            return value
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, dict):
            raise PydanticCustomError("not_a_choice", f"need the name of {self.what}")
        settings = dict(value)
        name = settings.pop("name", self.default)
        if name is None:
            error = InitErrorDetails(type="missing", loc=("name",), input=value)
            raise ValidationError.from_exception_data(self.registry.kind, [error])
        if not isinstance(name, str):
            refuse("name", name, f"found {name!r}, need the name of {self.what}")
        try:
            config = self.registry.get(name).Config
        except ConfigError as error_:
            if self.only_trains and info.context and info.context.get(READABLE):
                return Choice(name, Unloaded.model_validate(settings))
            refuse("name", name, str(error_))
        return Choice(name, config.model_validate(settings))

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        dump = core_schema.plain_serializer_function_ser_schema(Choice.dump)
        return core_schema.with_info_plain_validator_function(self.validate, serialization=dump)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {PLACEHOLDER: self.registry.kind}

    def json_schema(self, definitions: JsonSchemaValue) -> JsonSchemaValue:
        """Schema of the name alone or of a section, one for each registered part.

        Sections inside a part's own are added to ``definitions``.
        """
        names = self.registry.names()
        sections = [self._schema_of(name, definitions) for name in names]
        return {"oneOf": [{"enum": names}, *sections]}

    def _schema_of(self, name: str, definitions: JsonSchemaValue) -> JsonSchemaValue:
        kind = self.registry.kind
        prefix = f"{kind}.{name}."
        config: type[Section] = self.registry.get(name).Config
        schema = config.model_json_schema(ref_template=f"#/$defs/{prefix}{{model}}")
        inner = schema.pop("$defs", {})
        definitions.update({prefix + key: value for key, value in inner.items()})
        tag: JsonSchemaValue = {"const": name, "description": f"which {kind}"}
        schema["properties"] = {"name": tag, **schema.get("properties", {})}
        if name != self.default:
            schema["required"] = ["name", *schema.get("required", [])]
        return {**schema, "title": f"{kind} {name}"}


def fill_choices(schema: JsonSchemaValue, choices: Iterable[ChoiceFrom]) -> JsonSchemaValue:
    """Put the registered parts into a schema that pydantic made of sections with choices.

    Pydantic resolves references while it builds a schema, so that parts with sections of their
    own can only be put in afterwards.
    """
    by_kind = {choice.registry.kind: choice for choice in choices}
    definitions: JsonSchemaValue = {}

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            filled = {key: fill(item) for key, item in value.items() if key != PLACEHOLDER}
            if PLACEHOLDER not in value:
                return filled
            return {**filled, **by_kind[value[PLACEHOLDER]].json_schema(definitions)}
        return [fill(item) for item in value] if isinstance(value, list) else value

    filled: JsonSchemaValue = fill(schema)
    return {**filled, "$defs": {**filled.get("$defs", {}), **definitions}}
