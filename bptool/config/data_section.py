"""The ``data`` section: which text, how it becomes tokens, and how batches are drawn from it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from bptool.config.section import FILE, AtResume, Section

Form = Literal["messages", "conversations", "chosen", "instruction", "prompt", "text"]
"""Of a record; see docs/data.md."""


def _or_one_text(schema: dict[str, Any]) -> None:
    """Let the JSON Schema say that one text needs no list around it."""
    many = {key: schema.pop(key) for key in ("type", "items", "minItems")}
    schema["anyOf"] = [{"type": "string", "minLength": 1}, many]


class SplitConfig(Section):
    """How the text is divided into a training and a validation part."""

    by: Literal["position", "document"] = Field(
        default="position",
        description="position: the first part trains, the last part validates; "
        "document: whole documents are set aside, spread over the text",
    )
    validation_fraction: float = Field(
        default=0.1, gt=0.0, lt=1.0, description="share of the characters or documents set aside"
    )
    separator: str = Field(
        default="\n\n",
        min_length=1,
        description="what stands between documents: a blank line (the default), a line end, "
        "or any other text",
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="chooses the documents set aside")


class RecordsConfig(Section):
    """Records of conversations in place of texts; see docs/fine-tuning.md."""

    validation: Annotated[list[str], FILE, AtResume.CONTENT] = Field(
        default_factory=list,
        description="files of records that validate; by default some of the others do, as many as "
        "split.validation_fraction says",
    )
    skip_bad: Annotated[bool, AtResume.CONTENT] = Field(
        default=False, description="leave broken records out"
    )
    form: Form | None = Field(
        default=None,
        description="which form of the table in docs/data.md the records have, where their keys "
        "would let them have two",
    )
    judged_fraction: float = Field(
        default=0.0,
        ge=0.0,
        lt=1.0,
        description="of preferences that are held out: the share of their prompts on which only "
        "the trained model is judged, at the end; the others choose the checkpoint",
    )


class DataConfig(Section):
    """Text files, tokenizer, split, and the way batches are drawn."""

    text: Annotated[list[str], FILE, AtResume.CONTENT] = Field(
        min_length=1,
        json_schema_extra=_or_one_text,
        description="text files, folders or patterns, in order, or dataset:NAME for one from "
        "`bptool data list`",
    )
    field: Annotated[str, AtResume.CONTENT] = Field(
        default="text",
        min_length=1,
        description="of JSON, JSON Lines, CSV and Parquet files: the field with the text",
    )
    encoding: Annotated[str, AtResume.CONTENT] = Field(
        default="utf-8", min_length=1, description="of the files: a codec's name, or detect"
    )
    errors: Annotated[Literal["strict", "replace", "skip"], AtResume.CONTENT] = Field(
        default="strict",
        description="bytes that are no characters, and NULs: an error that names them, U+FFFD in "
        "their place, or left out",
    )
    tokenizer: Any = Field(default="char", description="a tokenizer by name, with its settings")
    split: SplitConfig = Field(
        default_factory=SplitConfig, description="what trains and what validates"
    )
    sampling: Literal["random", "epoch"] = Field(
        default="random",
        description="random: windows at random offsets, with replacement; "
        "epoch: every window once in a fresh order, then again",
    )

    records: RecordsConfig | None = Field(
        default=None,
        description="the files are records of conversations, JSON or JSON Lines, not texts; "
        "null: texts",
    )

    @field_validator("text", mode="before")
    @classmethod
    def _one_path_is_a_list_of_one(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value
