"""Turning pydantic's errors into lines that name the place, what was found, and what would do."""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from bptool.config.choice import ChoiceFrom
from bptool.config.other_names import translated
from bptool.config.schema import RunConfig
from bptool.config.section import Section
from bptool.config.yaml_reader import KeyPath
from bptool.errors import did_you_mean

MAX_SHOWN = 60


@dataclass(frozen=True)
class Problem:
    """One thing wrong: at which key, and in words."""

    path: KeyPath
    message: str
    about_key: bool = False
    """True when the key itself is wrong, and not its value."""


def annotation_of(field: FieldInfo) -> Any:
    """A field's type with its bounds and its :class:`ChoiceFrom`."""
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def choice_of(annotation: Any) -> ChoiceFrom | None:
    """The :class:`ChoiceFrom` of a type, if it is a choice."""
    if get_origin(annotation) is not Annotated:
        return None
    return next((mark for mark in get_args(annotation)[1:] if isinstance(mark, ChoiceFrom)), None)


def section_of(annotation: Any, raw: object) -> type[Section] | None:
    """The section class that ``raw`` is read with at a place of this type, if there is one."""
    choice = choice_of(annotation)
    if choice is not None:
        return choice.class_of(raw)
    if get_origin(annotation) is Annotated:
        return section_of(get_args(annotation)[0], raw)
    if get_origin(annotation) in (Union, types.UnionType):
        options = (section_of(option, raw) for option in get_args(annotation))
        return next((option for option in options if option is not None), None)
    is_section = isinstance(annotation, type) and issubclass(annotation, Section)
    return annotation if is_section else None


def item_of(annotation: Any) -> Any:
    """The type of a list's items, or None if the type is no list."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return item_of(arguments[0])
    if origin in (Union, types.UnionType):
        items = (item_of(option) for option in arguments)
        return next((item for item in items if item is not None), None)
    return arguments[0] if origin in (list, tuple) and arguments else None


@dataclass(frozen=True)
class Spot:
    """What the schema says about a key path."""

    annotation: Any
    field: FieldInfo | None


def spot_at(path: KeyPath, raw: Any, root: type[Section] = RunConfig) -> Spot | None:
    """Follow ``path`` through the schema of a file whose outermost section is ``root``.

    Choices are as ``raw`` makes them; None if the schema has no such key.
    """
    annotation: Any = root
    field: FieldInfo | None = None
    for key in path:
        if isinstance(key, int):
            annotation, field = item_of(annotation), None
            if annotation is None:
                return None
            raw = raw[key] if isinstance(raw, list) and key < len(raw) else None
            continue
        section = section_of(annotation, raw if raw is not None else {})
        if section is None or key not in section.model_fields:
            return None
        field = section.model_fields[key]
        annotation = annotation_of(field)
        raw = raw.get(key) if isinstance(raw, dict) else None
    return Spot(annotation, field)


def found(value: object) -> str:
    """A value as a message shows it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, str):
        text = value if len(value) <= MAX_SHOWN else value[:MAX_SHOWN] + "..."
        return repr(text)
    text = str(value)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."


NOUNS = {"integer": "a whole number", "number": "a number", "boolean": "true or false"}
LOWER = {"minimum": ">=", "exclusiveMinimum": ">"}
UPPER = {"maximum": "<=", "exclusiveMaximum": "<"}
ABSURD = 10**6
"""An upper bound from here on is named only to who goes over it."""


def _bounds(schema: dict[str, Any], value: object) -> str:
    bounds = [f"{sign} {schema[key]}" for key, sign in LOWER.items() if key in schema]
    for key, sign in UPPER.items():
        if key in schema:
            over = isinstance(value, int | float) and value >= schema[key]
            if over or schema[key] < ABSURD:
                bounds.append(f"{sign} {schema[key]}")
    return " and ".join(bounds)


def _need_by_schema(schema: dict[str, Any], value: object) -> str:
    if "const" in schema:
        return found(schema["const"])
    if "enum" in schema:
        return " or ".join(found(option) for option in schema["enum"])
    if "anyOf" in schema:
        options = [_need_by_schema(option, value) for option in schema["anyOf"]]
        return " or ".join(dict.fromkeys(options))
    kind = schema.get("type")
    if kind == "null":
        return "null"
    if kind == "array":
        count = schema.get("minItems")
        least = f" of at least {count}" if count else ""
        items = _need_by_schema(schema.get("items", {}), None)
        return f"a list{least}, each {items}"
    if kind == "string":
        return "text that is not empty" if schema.get("minLength") else "text"
    if kind in NOUNS:
        return f"{NOUNS[kind]} {_bounds(schema, value)}".strip()
    return "a section" if kind == "object" or "$ref" in schema else "a value"


def need(annotation: Any, value: object) -> str:
    """What a type accepts in place of ``value``, in words: ``a whole number >= 1 or 'full'``."""
    choice = choice_of(annotation)
    if choice is not None:
        return f"the name of {choice.what}: {', '.join(choice.registry.names())}"
    item = item_of(annotation)
    if item is not None and choice_of(item) is not None:
        return "a list of sections, each with a name"
    return _need_by_schema(TypeAdapter(annotation).json_schema(), value)


def _data_path(loc: tuple[str | int, ...], kind: str, raw: Any) -> KeyPath:
    """Pydantic's location without the names of union members, which are no keys."""
    path: list[str | int] = []
    node = raw
    for key in loc:
        if isinstance(node, dict) and key in node:
            node = node[str(key)]
        elif isinstance(node, list) and isinstance(key, int) and key < len(node):
            node = node[key]
        elif kind in ("missing", "refused") and "[" not in str(key):
            node = None
        else:
            continue
        path.append(key)
    return tuple(path)


def _homes_of(key: str, raw: dict[str, Any], root: type[Section]) -> list[str]:
    """Names of the sections that know ``key``."""
    places: list[KeyPath] = []
    for name, field in root.model_fields.items():
        places.append((name,))
        section = section_of(field.annotation, raw.get(name))
        for inner, inner_field in section.model_fields.items() if section else ():
            if section_of(inner_field.annotation, None) or choice_of(inner_field.annotation):
                places.append((name, inner))
    return [
        ".".join(map(str, place))
        for place in places
        if spot_at((*place, key), raw, root) is not None
    ]


def _unknown_key(path: KeyPath, raw: dict[str, Any], root: type[Section]) -> str:
    key = str(path[-1])
    parent = spot_at(path[:-1], raw, root)
    node: Any = raw
    for part in path[:-1]:
        node = node[part]
    homes = _homes_of(key, raw, root)
    if len(homes) == 1:
        return f"unknown key; it belongs in '{homes[0]}'"
    elsewhere = translated(key)
    if elsewhere is not None:
        return f"unknown key; {elsewhere}"
    section = section_of(parent.annotation, node) if parent is not None else None
    known = list(section.model_fields) if section is not None else []
    if parent is not None and choice_of(parent.annotation) is not None:
        known.append("name")
    return f"unknown key{did_you_mean(key, known)}"


def _message(path: KeyPath, error: Any, raw: dict[str, Any], root: type[Section]) -> str:
    kind = error["type"]
    if kind == "refused":
        return str(error["ctx"]["message"])
    if kind in ("value_error", "assertion_error"):
        return str(error["ctx"]["error"])
    spot = spot_at(path, raw, root)
    wanted = f"need {need(spot.annotation, error['input'])}" if spot is not None else ""
    if kind == "missing":
        return f"missing; {wanted}" if wanted else "missing"
    return f"found {found(error['input'])}, {wanted or error['msg']}"


def problems_of(
    error: ValidationError, raw: dict[str, Any], root: type[Section] = RunConfig
) -> list[Problem]:
    """One problem for each key that is wrong, in the order of pydantic's report.

    ``root``: the section that was read.
    """
    problems: dict[KeyPath, Problem] = {}
    for item in error.errors(include_url=False):
        path = _data_path(item["loc"], item["type"], raw)
        if item["type"] == "extra_forbidden":
            problems.setdefault(path, Problem(path, _unknown_key(path, raw, root), about_key=True))
        else:
            value = value_at(raw, path)
            shown = {**item, "input": value}
            problems.setdefault(path, Problem(path, _message(path, shown, raw, root)))
    return [problem for problem in problems.values() if not _has_deeper(problem.path, problems)]


def _has_deeper(path: KeyPath, problems: dict[KeyPath, Problem]) -> bool:
    """Whether a problem inside the same value says more: another union member fits better."""
    return any(len(other) > len(path) and other[: len(path)] == path for other in problems)


def value_at(raw: Any, path: KeyPath) -> Any:
    """The raw value at a key path, or None."""
    for key in path:
        try:
            raw = raw[key]
        except (KeyError, IndexError, TypeError):
            return None
    return raw
