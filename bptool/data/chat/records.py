"""Records to fine-tune on, in the shapes that the field writes.

{"text": ...}                                     all of it is trained on
{"prompt": ..., "completion": ...}                a question and its answer
{"messages": [{"role": ..., "content": ...}]}     a conversation
{"instruction": ..., "input": ..., "output": ...} an instruction, maybe with an input
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

from bptool.data.chat.objects import BadRecord, Broken, read_parsed, refuse_broken

Role = Literal["system", "user", "assistant"]
ROLES = get_args(Role)
SHAPES = "text; prompt and completion; messages; or instruction and output"


class Message(NamedTuple):
    """What one side says."""

    role: Role
    content: str


@dataclass(frozen=True)
class Record:
    """A conversation, or a plain text in place of one.

    Attributes:
        messages: in order; the assistant's are trained on. Empty where there is a ``text``.
        text: trained on as a whole; None in a conversation.
        place: where it stands: ``file:line``.
    """

    messages: tuple[Message, ...]
    text: str | None
    place: str

    @property
    def opening(self) -> tuple[Message, ...]:
        """The conversation up to the assistant's first answer."""
        n = next(i for i, m in enumerate(self.messages) if m.role == "assistant")
        return self.messages[:n]


def read_records(
    paths: Sequence[Path | str], skip_bad: bool = False
) -> tuple[list[Record], list[Broken]]:
    """The records of JSON or JSON Lines files, gzipped or not, and those that are broken.

    Raises:
        DataError: a file cannot be read; or, unless ``skip_bad``, a record is broken.
    """
    records, broken = read_parsed(paths, parse_record)
    refuse_broken(broken, skip_bad)
    return records, broken


def parse_record(value: dict[str, Any], place: str) -> Record:
    """The record of a JSON object; BadRecord where it has none of the shapes."""
    if "messages" in value:
        messages = parse_messages(value["messages"], "messages")
        if not any(m.role == "assistant" for m in messages):
            raise BadRecord("messages has nothing that the assistant says")
        return Record(messages, None, place)
    if "prompt" in value or "completion" in value:
        prompt, completion = _text(value, "prompt"), _text(value, "completion")
        return Record((Message("user", prompt), Message("assistant", completion)), None, place)
    if "instruction" in value or "output" in value:
        asked, answer = _text(value, "instruction"), _text(value, "output")
        if value.get("input"):
            asked = f"{asked}\n\n{_text(value, 'input')}"
        return Record((Message("user", asked), Message("assistant", answer)), None, place)
    if "text" in value:
        return Record((), _text(value, "text"), place)
    raise BadRecord(f"has {_keys(value)}; need {SHAPES}")


def parse_messages(value: Any, key: str) -> tuple[Message, ...]:
    """A list of ``{"role", "content"}``, of which only the first may be the system's."""
    if not isinstance(value, list) or not value:
        raise BadRecord(f"{key} is not a list of messages")
    messages = []
    for number, item in enumerate(value, 1):
        where = f"message {number} of {key}"
        if not isinstance(item, dict):
            raise BadRecord(f"{where} is not an object")
        role = item.get("role")
        if role not in ROLES:
            raise BadRecord(f"{where} has the role {role!r}; known: {', '.join(ROLES)}")
        if role == "system" and number > 1:
            raise BadRecord(f"{where} is of the system, which speaks first or not at all")
        content = item.get("content")
        if not isinstance(content, str) or not content:
            raise BadRecord(f"{where} has no content")
        messages.append(Message(cast(Role, role), content))
    return tuple(messages)


def _text(value: dict[str, Any], key: str) -> str:
    found = value.get(key)
    if not isinstance(found, str) or not found:
        raise BadRecord(f"{key} is {'missing' if found is None else 'not a text or empty'}")
    return found


def _keys(value: dict[str, Any]) -> str:
    names = [repr(key) for key in list(value)[:6]]
    return f"the keys {', '.join(names)}" if names else "no keys"
