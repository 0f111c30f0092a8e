"""Conversations from records, in the forms that the field writes.

{"messages": [{"role": ..., "content": ...}]}         a conversation
{"conversations": [{"from": ..., "value": ...}]}      the same, as ShareGPT has it
{"instruction": ..., "input": ..., "output": ...}     an instruction, maybe with an input
{"prompt": ..., "completion": ...}                    texts, or lists of messages
{"text": ...}                                         all of it is trained on

docs/data.md has the whole table. What has ``chosen`` and ``rejected`` is a preference
(:mod:`bptool.data.preferences`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

from bptool.config.data_section import Form
from bptool.data.decoding import Reading
from bptool.data.record_report import BadRecord, RecordReport
from bptool.data.records import RawRecord, parse_records

Role = Literal["system", "user", "assistant"]
ROLES = get_args(Role)
FORMS: dict[Form, tuple[str, ...]] = {
    "messages": ("messages",),
    "conversations": ("conversations",),
    "chosen": ("chosen", "rejected"),
    "instruction": ("instruction", "output"),
    "prompt": ("prompt", "completion"),
    "text": ("text",),
}
"""The keys by which each form is told, in the order of the documentation."""
_ROLE_NAMES = {**{role: role for role in ROLES}, "developer": "system"}
_FROM_NAMES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bot", "model", "ai"), "assistant"),
    "system": "system",
}
_TOOLS = ("tool_calls", "function_call")


class Message(NamedTuple):
    """What one side says.

    Attributes:
        trained: whether it is learnt, if the assistant says it; else it is only seen.
    """

    role: Role
    content: str
    trained: bool = True


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
        """The conversation up to the first answer that is trained on."""
        n = next(i for i, m in enumerate(self.messages) if is_trained(m))
        return self.messages[:n]


def is_trained(message: Message) -> bool:
    """Whether a message is trained on."""
    return message.role == "assistant" and message.trained


def read_records(
    names: Sequence[Path | str],
    report: RecordReport,
    form: Form | None = None,
    reading: Reading | None = None,
) -> list[Record]:
    """The records of files, folders and patterns; those that are broken go into ``report``.

    Raises:
        DataError: a file cannot be read, or is no file of records.
    """
    return list(parse_records(names, partial(parse_record, form=form), report, reading))


def form_of(record: RawRecord, wanted: Form | None = None) -> Form:
    """The form of a record, by its keys; or the one that is wanted, if it has a key of it.

    Raises:
        BadRecord: it is none, or may be two.
    """
    there = set(record) or set(record.all)
    if wanted is not None:
        if there.isdisjoint(FORMS[wanted]):
            raise BadRecord(f"has {record.names()}; need {_keys(wanted)}", f"without {wanted}")
        return wanted
    found = [form for form, keys in FORMS.items() if there.issuperset(keys)]
    if len(found) > 1:
        first, second = found[:2]
        raise BadRecord(
            f"has both {_keys(first)} and {_keys(second)}; say which is meant with "
            f"--form {first} or --form {second} (data.records.form)",
            "of two forms",
        )
    found = found or [form for form, keys in FORMS.items() if not there.isdisjoint(keys)]
    if not found:
        needed = "; ".join(map(_keys, FORMS))
        raise BadRecord(f"has {record.names()}; need {needed}", "of no known form")
    return found[0]


def _only_seen(message: Message) -> Message:
    return message._replace(trained=False) if message.role == "assistant" else message


def _keys(form: Form) -> str:
    return " and ".join(FORMS[form])


def parse_record(record: RawRecord, form: Form | None = None) -> Record:
    """The conversation of a record; BadRecord where it has none of the forms."""
    form = form_of(record, form)
    if form == "text":
        return Record((), text_of(record, "text"), record.place)
    if form == "chosen":
        raise BadRecord(
            "is a pair of answers (chosen and rejected), which `bptool finetune dpo` learns from",
            "with a pair of answers, for finetune dpo",
        )
    if form == "messages" or form == "conversations":
        messages = parse_messages(record.get(form), form, record)
    elif form == "instruction":
        asked, answer = text_of(record, "instruction"), text_of(record, "output")
        if record.get("input"):
            asked = f"{asked}\n\n{text_of(record, 'input')}"
        messages = (*_history(record), Message("user", asked), Message("assistant", answer))
    else:
        asked_in = turns_of(record, "prompt", "user")
        messages = (*map(_only_seen, asked_in), *turns_of(record, "completion", "assistant"))
    messages = (*system_of(record, messages), *messages)
    if not any(message.role == "assistant" for message in messages):
        raise BadRecord(f"{form} has nothing that the assistant says", "without an answer")
    if not any(map(is_trained, messages)):
        raise BadRecord(f"{form} has nothing with a weight of 1", "with nothing to train on")
    return Record(messages, None, record.place)


def turns_of(record: RawRecord, key: str, role: Role) -> tuple[Message, ...]:
    """The messages under ``key``: a list of them, or a text that ``role`` says."""
    if isinstance(record.get(key), list):
        return parse_messages(record[key], key, record)
    return (Message(role, text_of(record, key)),)


def system_of(record: RawRecord, messages: Sequence[Message]) -> tuple[Message, ...]:
    """What the key ``system`` says before ``messages``, if there is one."""
    if not record.get("system"):
        return ()
    if messages and messages[0].role == "system":
        raise BadRecord("has the key system, and a message of the system too", "with two systems")
    return (Message("system", text_of(record, "system")),)


def _history(record: RawRecord) -> tuple[Message, ...]:
    pairs = record.get("history", [])
    if not isinstance(pairs, list):
        raise BadRecord("history is not a list of pairs", "with an unknown history")
    messages = []
    for number, pair in enumerate(pairs, 1):
        if not (
            isinstance(pair, list)
            and len(pair) == 2
            and all(isinstance(text, str) and text for text in pair)
        ):
            raise BadRecord(
                f"pair {number} of history is not [what the user says, what the assistant says]",
                "with an unknown history",
            )
        messages += [Message("user", pair[0]), Message("assistant", pair[1])]
    return tuple(messages)


def parse_messages(value: Any, key: str, record: RawRecord | None = None) -> tuple[Message, ...]:
    """A list of ``{"role", "content"}`` or of ``{"from", "value"}``; only the first may be the
    system's.

    Args:
        key: of ``value``, for what is said of it. record: told of keys that are not used.
    """
    if not isinstance(value, list) or not value:
        raise BadRecord(f"{key} is not a list of messages")
    messages = []
    for number, item in enumerate(value, 1):
        where = f"message {number} of {key}"
        if not isinstance(item, dict):
            raise BadRecord(f"{where} is not an object", "with a message that is not an object")
        message = _message({k: v for k, v in item.items() if v is not None}, where, key, record)
        if message.role == "system" and number > 1:
            raise BadRecord(
                f"{where} is of the system, which speaks first or not at all",
                "with a system that does not speak first",
            )
        messages.append(message)
    return tuple(messages)


def _message(item: dict[str, Any], where: str, key: str, record: RawRecord | None) -> Message:
    by, says, names = ("role", "content", _ROLE_NAMES)
    if "role" not in item and "from" in item:
        by, says, names = ("from", "value", _FROM_NAMES)
    called = next((name for name in _TOOLS if item.get(name)), None)
    if called:
        raise BadRecord(
            f"{where} calls a tool ({called}), which cannot be trained on", f"with {called}"
        )
    role = item.get(by)
    if not isinstance(role, str) or role not in names:
        raise BadRecord(
            f"{where} has the role {repr(role)[:60]}; known: {', '.join(names)}",
            "with an unknown role",
        )
    content = _content(item.get(says), where)
    weight = item.get("weight", 1)
    if weight not in (0, 1):
        raise BadRecord(
            f"{where} has the weight {repr(weight)[:60]}; it is 0 or 1", "with another weight"
        )
    side = cast(Role, names[role])
    if record is not None:
        used = {by, says, *(["weight"] if side == "assistant" or weight == 0 else [])}
        for name in item:
            if name not in used and item[name] not in ("", [], {}):
                record.add_unused(f"{key}.{name}")
    return Message(side, content, bool(weight) or side != "assistant")


def _content(value: Any, where: str) -> str:
    """A text, or parts of text joined."""
    if isinstance(value, list):
        texts = []
        for part in value:
            text = part.get("text") if isinstance(part, dict) else part
            other = part.get("type", "text") if isinstance(part, dict) else "text"
            if other != "text" or not isinstance(text, str):
                raise BadRecord(
                    f"{where} has a part of type {repr(other)[:60]}; only text can be trained on",
                    "with a part that is not text",
                )
            texts.append(text)
        value = "".join(texts)
    if not isinstance(value, str) or not value:
        raise BadRecord(f"{where} has no content", "without content")
    return value


def text_of(record: RawRecord, key: str) -> str:
    """The text under ``key``, never an empty one."""
    value = record.get(key)
    if isinstance(value, str) and value:
        return value
    how = "not a text"
    if value is None:
        how = "null" if key in record.all else "missing"
    elif value == "":
        how = "empty"
    raise BadRecord(f"{key} is {how}", f"of which {key} is {how}")
