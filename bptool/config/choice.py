"""A part chosen by name from a registry, with its own settings: ``{name: adamw, beta2: 0.99}``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from bptool.config.section import Section, refuse
from bptool.errors import ConfigError
from bptool.registry import Registry


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
    """Annotation of a field that holds a :class:`Choice`: ``Annotated[Choice, ChoiceFrom(models)]``.

    Takes a mapping with ``name`` and the part's own keys, or the name alone.

    Args:
        registry: where the name is looked up.
        default: the name of a mapping that gives none; without a default it must give one.
    """

    registry: Registry
    default: str | None = None

    def class_of(self, raw: object) -> type[Section] | None:
        """The Config class that a raw section would be read with, or None if its name is unknown."""
        name = raw.get("name", self.default) if isinstance(raw, dict) else raw
        if not isinstance(name, str):
            return None
        try:
            config: type[Section] = self.registry.get(name).Config
        except ConfigError:
            return None
        return config

    def validate(self, value: object) -> Choice:
        """Turn a name or a mapping into a :class:`Choice`; raises pydantic's ValidationError."""
        if isinstance(value, Choice):
            return value
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, dict):
            kind = self.registry.kind
            raise PydanticCustomError("not_a_choice", f"need a section with the name of a {kind}")
        settings = dict(value)
        name = settings.pop("name", self.default)
        if name is None:
            error = InitErrorDetails(type="missing", loc=("name",), input=value)
            raise ValidationError.from_exception_data(self.registry.kind, [error])
        if not isinstance(name, str):
            refuse("name", name, f"need the name of a {self.registry.kind}")
        try:
            config = self.registry.get(name).Config
        except ConfigError as error_:
            refuse("name", name, str(error_))
        return Choice(name, config.model_validate(settings))

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        dump = core_schema.plain_serializer_function_ser_schema(Choice.dump)
        return core_schema.no_info_plain_validator_function(self.validate, serialization=dump)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        names = self.registry.names()
        return {"oneOf": [{"enum": names}, *(self._schema_of(name) for name in names)]}

    def _schema_of(self, name: str) -> JsonSchemaValue:
        prefix = f"{self.registry.kind}.{name}."
        config: type[Section] = self.registry.get(name).Config
        schema = config.model_json_schema(ref_template=f"#/$defs/{prefix}{{model}}")
        definitions = {prefix + key: value for key, value in schema.pop("$defs", {}).items()}
        tag: JsonSchemaValue = {"const": name, "description": f"which {self.registry.kind}"}
        schema["properties"] = {"name": tag, **schema.get("properties", {})}
        if name != self.default:
            schema["required"] = ["name", *schema.get("required", [])]
        schema["title"] = f"{self.registry.kind} {name}"
        return {**schema, "$defs": definitions} if definitions else schema


def hoist_definitions(schema: JsonSchemaValue) -> JsonSchemaValue:
    """Move every nested ``$defs`` to the root, where the references to them point."""
    found: JsonSchemaValue = {}

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            inner = value.get("$defs")
            if isinstance(inner, dict):
                found.update({key: strip(item) for key, item in inner.items()})
            return {key: strip(item) for key, item in value.items() if key != "$defs"}
        return [strip(item) for item in value] if isinstance(value, list) else value

    root: JsonSchemaValue = strip(schema)
    return {**root, "$defs": found} if found else root
