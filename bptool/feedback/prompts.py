"""Prompts to answer: texts with one a line, or records with ``prompt``, ``messages``,
``conversations`` or ``instruction``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bptool.data.chat.records import Message, parse_messages, system_of, text_of
from bptool.data.record_report import BadRecord, RecordReport
from bptool.data.records import RawRecord, parse_records
from bptool.data.sources import read_sources
from bptool.data.text import RECORDS, expand, kind
from bptool.errors import DataError
from bptool.inference.answers import Prompt

OF_PROMPTS = frozenset(("prompt", "messages", "conversations", "instruction", "input", "system"))
"""Keys that a prompt is made of."""


class PromptRecord(NamedTuple):
    """A prompt, and the record that it stands in.

    Attributes:
        columns: the record by column; of a line of a text its ``prompt`` alone.
        place: ``file:line``.
    """

    prompt: Prompt
    columns: Mapping[str, Any]
    place: str


def read_prompt_records(names: Sequence[Path | str], report: RecordReport) -> list[PromptRecord]:
    """The prompts of files with their records, each prompt once; records that are broken go into
    ``report``, and how many repeat a prompt with other columns.

    Raises:
        DataError: a file cannot be read, or they hold no prompt.
    """
    found: list[PromptRecord] = []
    for name in names:
        for path in expand(name):
            if kind(path) in RECORDS or (kind(path) == "" and path.suffix):
                found += parse_records([path], _parse, report)
                continue
            (source,) = read_sources([path])
            for number, line in enumerate(source.text.split("\n"), 1):
                if text := line.strip():
                    found.append(PromptRecord(text, {"prompt": text}, f"{path}:{number}"))
    unique: dict[tuple[Message, ...], PromptRecord] = {}
    for record in found:
        first = unique.setdefault(as_messages(record.prompt), record)
        other = first.columns != record.columns
        report.leave_out("with a prompt that another record has with other columns", int(other))
    if not unique and not report.n_bad:
        raise DataError(f"{', '.join(map(str, names))}: no prompt; give one a line")
    return list(unique.values())


def refuse_conversations(records: Sequence[PromptRecord]) -> None:
    """Raise a DataError that names the records with several turns: for a run without a template."""
    report = RecordReport()
    for record in records:
        if not isinstance(record.prompt, str) and len(record.prompt) != 1:
            reason = f"has {len(record.prompt)} turns, and nothing would tell who speaks"
            report.add_bad(record.place, reason, "with several turns, for a run without a template")
    report.refuse(
        remedy="give single prompts, or a run that was trained with "
        "`bptool finetune sft RUN --template roles`"
    )


def read_prompts(paths: Sequence[Path | str], skip_bad: bool = False) -> list[Prompt]:
    """The prompts of files, in order, each once.

    Raises:
        DataError: a file cannot be read, holds no prompt, or a record in it is broken.
    """
    report = RecordReport()
    found = read_prompt_records(paths, report)
    report.refuse(skip_bad)
    return [record.prompt for record in found]


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


def _parse(record: RawRecord) -> PromptRecord:
    """The prompt of a record; what else it has is for whoever rewards the answer."""
    columns = dict(record.all)
    record.ignore(*record)
    key = next((k for k in ("messages", "conversations") if k in record), None)
    prompt: Prompt
    if key is not None:
        prompt = parse_messages(record[key], key)
        if prompt[-1].role != "user":
            raise BadRecord(
                f"{key} does not end with what the user says", "that do not end with the user"
            )
    elif "instruction" in record and "prompt" not in record:
        more = f"\n\n{text_of(record, 'input')}" if record.get("input") else ""
        prompt = text_of(record, "instruction") + more
    else:
        prompt = from_json(record.get("prompt"))
    messages = as_messages(prompt)
    if system := system_of(record, messages):
        prompt = (*system, *messages)
    return PromptRecord(prompt, columns, record.place)


def from_json(value: Any) -> Prompt:
    """The prompt of a JSON value; BadRecord where it is none."""
    if isinstance(value, list):
        return parse_messages(value, "prompt")
    if not isinstance(value, str) or not value.strip():
        raise BadRecord(
            f"prompt is {'missing' if value is None else 'not a text or empty'}", "without a prompt"
        )
    return value


def same(a: Prompt, b: Prompt) -> bool:
    """Whether two prompts say the same."""
    return as_messages(a) == as_messages(b)


def as_messages(prompt: Prompt) -> tuple[Message, ...]:
    """A text as what the user says."""
    return (Message("user", prompt),) if isinstance(prompt, str) else tuple(prompt)
