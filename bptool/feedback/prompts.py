"""Prompts to answer: a text file with one a line, or JSON Lines with ``prompt`` or ``messages``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bptool.data.chat.records import Message, parse_messages
from bptool.data.record_report import BadRecord, RecordReport
from bptool.data.records import RawRecord, parse_records
from bptool.data.sources import read_sources
from bptool.errors import DataError
from bptool.inference.answers import Prompt


def read_prompts(paths: Sequence[Path | str], skip_bad: bool = False) -> list[Prompt]:
    """The prompts of files, in order, each once.

    Raises:
        DataError: a file cannot be read, holds no prompt, or a record in it is broken.
    """
    found: list[Prompt] = []
    for path in map(Path, paths):
        if path.suffix.lower() in (".jsonl", ".json", ".gz"):
            report = RecordReport()
            found += parse_records([path], _parse, report)
            report.refuse(skip_bad)
        else:
            (source,) = read_sources([path])
            found += [line.strip() for line in source.text.split("\n") if line.strip()]
    unique = list(dict.fromkeys(found))
    if not unique:
        raise DataError(f"{', '.join(map(str, paths))}: no prompt; give one a line")
    return unique


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


def _parse(value: RawRecord) -> Prompt:
    if "messages" in value:
        messages = parse_messages(value["messages"], "messages")
        if messages[-1].role != "user":
            raise BadRecord("messages does not end with what the user says")
        return messages
    return from_json(value.get("prompt"))


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
