"""Preferences between answers, and judgements of single answers, in the shapes the field writes.

{"prompt": ..., "chosen": ..., "rejected": ...}    strings, or lists of messages
{"chosen": ..., "rejected": ...}                   two whole conversations with one beginning
{"prompt": ..., "completion": ..., "label": true}  one answer, and whether it is desirable

A whole conversation is a list of messages, or a string of turns, each behind an empty line and
``Human:`` or ``Assistant:``. Lines that ``bptool feedback`` wrote have a ``choice`` too; ties and
skips are counted, not used.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bptool.data.chat.records import Message, parse_messages
from bptool.data.record_report import BadRecord, RecordReport
from bptool.data.records import RawRecord, parse_records

UNDECIDED = ("tie", "skip")
_TURN = re.compile(r"\n\n(Human|Assistant):")


@dataclass(frozen=True)
class Preference:
    """Two answers to one prompt.

    Attributes:
        prompt: the conversation that is answered; its last message is the user's.
        chosen, rejected: the better answer, and the other. place: ``file:line``.
    """

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    place: str


@dataclass(frozen=True)
class Judgement:
    """One answer, and whether it is desirable."""

    prompt: tuple[Message, ...]
    answer: str
    good: bool
    place: str


@dataclass(frozen=True)
class Undecided:
    """A line of a tie, or of a pair that was skipped."""

    place: str


@dataclass(frozen=True)
class Preferences:
    """What files of judgements hold."""

    pairs: tuple[Preference, ...]
    judgements: tuple[Judgement, ...]
    n_undecided: int
    report: RecordReport


def read_preferences(paths: Sequence[Path | str], skip_bad: bool = False) -> Preferences:
    """Read JSON or JSON Lines files, gzipped or not.

    Raises:
        DataError: a file cannot be read; or, unless ``skip_bad``, a record is broken.
    """
    report = RecordReport()
    found = list(parse_records(paths, parse_preference, report))
    report.refuse(skip_bad)
    return Preferences(
        pairs=tuple(x for x in found if isinstance(x, Preference)),
        judgements=tuple(x for x in found if isinstance(x, Judgement)),
        n_undecided=sum(isinstance(x, Undecided) for x in found),
        report=report,
    )


def parse_preference(value: RawRecord) -> Preference | Judgement | Undecided:
    """What a JSON object says; BadRecord where it has none of the shapes."""
    if value.get("choice") in UNDECIDED:
        return Undecided(value.place)
    if "label" in value or ("completion" in value and "chosen" not in value):
        return _judgement(value)
    for key in ("chosen", "rejected"):
        if not value.get(key):
            raise BadRecord(f"{key} is missing or empty; need prompt, chosen and rejected")
    if value.get("prompt"):
        prompt = _prompt(value["prompt"])
        chosen, rejected = (_answer(value[key], key, prompt) for key in ("chosen", "rejected"))
    else:
        prompt, chosen, rejected = _divide(value["chosen"], value["rejected"])
    if chosen == rejected:
        raise BadRecord("chosen and rejected are the same answer")
    return Preference(prompt, chosen, rejected, value.place)


def _judgement(value: RawRecord) -> Judgement:
    if not isinstance(value.get("label"), bool):
        raise BadRecord("label is not true or false")
    if not value.get("prompt"):
        raise BadRecord("prompt is missing or empty")
    if not value.get("completion"):
        raise BadRecord("completion is missing or empty")
    prompt = _prompt(value["prompt"])
    return Judgement(
        prompt, _answer(value["completion"], "completion", prompt), value["label"], value.place
    )


def _prompt(value: Any) -> tuple[Message, ...]:
    if isinstance(value, str):
        return (Message("user", value),)
    messages = parse_messages(value, "prompt")
    if messages[-1].role != "user":
        raise BadRecord(f"prompt ends with what the {messages[-1].role} says, not the user")
    return messages


def _answer(value: Any, key: str, prompt: tuple[Message, ...]) -> str:
    """The one message that follows ``prompt``, which may stand before it once more."""
    if isinstance(value, str):
        return value
    messages = parse_messages(value, key)
    if messages[: len(prompt)] == prompt:
        messages = messages[len(prompt) :]
    return _only(messages, key)


def _only(messages: tuple[Message, ...], key: str) -> str:
    if len(messages) != 1 or messages[0].role != "assistant":
        raise BadRecord(f"{key} goes on with more than one message of the assistant")
    return messages[0].content


def _divide(chosen: Any, rejected: Any) -> tuple[tuple[Message, ...], str, str]:
    """The beginning that two whole conversations share, and the answer that ends each."""
    whole = [
        _turns(value, key) if isinstance(value, str) else parse_messages(value, key)
        for key, value in (("chosen", chosen), ("rejected", rejected))
    ]
    n = 0
    while n < min(map(len, whole)) and whole[0][n] == whole[1][n]:
        n += 1
    prompt = whole[0][:n]
    if n == len(whole[0]) == len(whole[1]):
        raise BadRecord("chosen and rejected are the same conversation")
    if not prompt or prompt[-1].role != "user":
        raise BadRecord("chosen and rejected share no beginning that ends with the user")
    return prompt, _only(whole[0][n:], "chosen"), _only(whole[1][n:], "rejected")


def _turns(text: str, key: str) -> tuple[Message, ...]:
    """Messages of ``"\\n\\nHuman: ...\\n\\nAssistant: ..."``."""
    before, *parts = _TURN.split(text)
    if not parts or before.strip():
        raise BadRecord(
            f"there is no prompt, and {key} is no conversation of '\\n\\nHuman:' and "
            "'\\n\\nAssistant:'"
        )
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = zip(parts[::2], parts[1::2], strict=True)
    return parse_messages(
        [{"role": roles[name], "content": said.strip()} for name, said in turns], key
    )
