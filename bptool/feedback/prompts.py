"""Prompts to answer: a text file with one a line, or records with ``prompt`` or ``messages``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bptool.data.chat.objects import BadRecord, Broken, read_parsed, refuse_broken
from bptool.data.chat.records import Message, parse_messages
from bptool.data.sources import read_sources
from bptool.errors import DataError
from bptool.inference.answers import Prompt

RECORDS = (".jsonl", ".json", ".gz")


class PromptRecord(NamedTuple):
    """A prompt, and the record that it stands in.

    Attributes:
        columns: the record by column; of a line of a text its ``prompt`` alone.
        place: ``file:line``.
    """

    prompt: Prompt
    columns: Mapping[str, Any]
    place: str


@dataclass(frozen=True)
class Prompts:
    """What files of prompts hold.

    Attributes:
        records: each prompt once, in order.
        broken: records that were left out.
        n_other: records whose prompt was there already with other columns, which were left out.
    """

    records: tuple[PromptRecord, ...]
    broken: tuple[Broken, ...]
    n_other: int


def read_prompt_records(paths: Sequence[Path | str], skip_bad: bool = False) -> Prompts:
    """The prompts of files with their records.

    Raises:
        DataError: a file cannot be read, holds no prompt, or a record in it is broken.
    """
    found: list[PromptRecord] = []
    broken: list[Broken] = []
    for path in map(Path, paths):
        if path.suffix.lower() in RECORDS:
            parsed, bad = read_parsed([path], _parse)
            found += parsed
            broken += bad
        else:
            (source,) = read_sources([path])
            for number, line in enumerate(source.text.split("\n"), 1):
                if text := line.strip():
                    found.append(PromptRecord(text, {"prompt": text}, f"{path}:{number}"))
    refuse_broken(broken, skip_bad)
    unique: dict[tuple[Message, ...], PromptRecord] = {}
    n_other = 0
    for record in found:
        first = unique.setdefault(as_messages(record.prompt), record)
        n_other += first.columns != record.columns
    if not unique:
        raise DataError(f"{', '.join(map(str, paths))}: no prompt; give one a line")
    return Prompts(tuple(unique.values()), tuple(broken), n_other)


def read_prompts(paths: Sequence[Path | str], skip_bad: bool = False) -> list[Prompt]:
    """The prompts of files, in order, each once.

    Raises:
        DataError: a file cannot be read, holds no prompt, or a record in it is broken.
    """
    return [record.prompt for record in read_prompt_records(paths, skip_bad).records]


def said_last(prompt: Prompt) -> str:
    """What is asked: the text itself, or the last message."""
    return prompt if isinstance(prompt, str) else prompt[-1].content


def transcript(prompt: Prompt) -> str:
    """All that a reviewer has to know: the text itself, or every message with who says it."""
    if isinstance(prompt, str) or len(prompt) == 1:
        return said_last(prompt)
    return "\n\n".join(f"{message.role}: {message.content}" for message in prompt)


def to_json(prompt: Prompt) -> Any:
    """A text, or a list of messages."""
    if isinstance(prompt, str):
        return prompt
    return [{"role": m.role, "content": m.content} for m in prompt]


def _parse(value: dict[str, Any], place: str) -> PromptRecord:
    if "messages" in value:
        messages = parse_messages(value["messages"], "messages")
        if messages[-1].role != "user":
            raise BadRecord("messages does not end with what the user says")
        return PromptRecord(messages, value, place)
    return PromptRecord(from_json(value.get("prompt")), value, place)


def from_json(value: Any) -> Prompt:
    """The prompt of a JSON value; BadRecord where it is none."""
    if isinstance(value, list):
        return parse_messages(value, "prompt")
    if not isinstance(value, str) or not value.strip():
        raise BadRecord(f"prompt is {'missing' if value is None else 'not a text or empty'}")
    return value


def same(a: Prompt, b: Prompt) -> bool:
    """Whether two prompts say the same."""
    return as_messages(a) == as_messages(b)


def as_messages(prompt: Prompt) -> tuple[Message, ...]:
    """A text as what the user says."""
    return (Message("user", prompt),) if isinstance(prompt, str) else tuple(prompt)
