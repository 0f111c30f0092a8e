"""The base of every typed section of a configuration."""

from __future__ import annotations

import enum
import re
import types
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError

RESUME_KEY = "x-at-resume"
"""Under which the JSON Schema of a setting says that a resumed run may change it."""


class AtResume(enum.Enum):
    """What a change of a setting means to a run that is resumed; marks its field, as in
    ``Annotated[int, AtResume.NO_WEIGHT]``. A field or section without a mark may not change."""

    NO_WEIGHT = "no weight depends on it"
    ROUNDING = "weights depend on it up to rounding"
    LENGTH = "the schedule follows it from there on"
    CONTENT = "what it names must have the content that the run was trained on"

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(schema), RESUME_KEY: self.value}


class NamesFile:
    """Marks the field of a path, or of a list of paths, as in ``Annotated[str, FILE]``.

    Relative paths are taken from the file that they stand in. They may hold bytes that are not
    UTF-8.
    """


FILE = NamesFile()


def refuse(key: str, value: object, message: str) -> NoReturn:
    """Fail a section's validation with an error that belongs to one of its keys.

    For a check between keys, in a ``model_validator(mode="after")``: the message is shown with
    the line on which ``key`` stands, instead of the line of the whole section.

    Args:
        key: the key to blame; dots reach into sections and lists below, ``"split.by"``.
        value: what was found there.
        message: what is wrong and what would do.
    """
    error = PydanticCustomError("refused", "{message}", {"message": message})
    loc = tuple(int(part) if part.isdecimal() else part for part in key.split("."))
    detail = InitErrorDetails(type=error, loc=loc, input=value)
    raise ValidationError.from_exception_data("Section", [detail])


def _admits(annotation: Any, value: object) -> bool:
    """Whether a text, a truth value or a list of them may be given for ``annotation`` as it is."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _admits(get_args(annotation)[0], value)
    if origin is Literal:
        return any(
            type(option) is type(value) and option == value for option in get_args(annotation)
        )
    if origin in (Union, types.UnionType):
        return any(_admits(option, value) for option in get_args(annotation))
    if origin in (list, tuple, set, frozenset) and isinstance(value, list | tuple):
        inner = next((item for item in get_args(annotation) if item is not Ellipsis), Any)
        return all(_admits(inner, item) for item in value)
    if annotation is types.NoneType:
        return value is None
    if isinstance(value, bool):
        is_section = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        return not is_section and annotation not in (int, float, str)
    if isinstance(value, str):
        return annotation not in (int, float, bool)
    return True


_LONE_BYTE = re.compile("[\udc80-\udcff]")
"""How a byte that is not UTF-8 stands in a text."""


def _holds_a_lone_byte(value: Any) -> bool:
    texts = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(text, str) and _LONE_BYTE.search(text) for text in texts)


class Section(BaseModel):
    """A part of a configuration: unknown keys are refused, values do not change once read.

    ``"10"`` is not taken for a number, nor ``true`` for 1; ``1e5`` is taken for a whole number.
    NaN and infinity are refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _types_are_as_written(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[info.field_name or ""]
        if not _admits(field.annotation, value):
            raise PydanticCustomError("wrong_type", "wrong type")
        if FILE not in field.metadata and _holds_a_lone_byte(value):
            message = "half a surrogate pair; write the character itself"
            raise PydanticCustomError("refused", "{message}", {"message": message})
        return value
