"""Preferences between answers, and judgements of single answers, in the shapes the field writes.

{"prompt": ..., "chosen": ..., "rejected": ...}    texts, or lists of messages
{"chosen": ..., "rejected": ...}                   two whole conversations with one beginning
{"prompt": ..., "completion": ..., "label": true}  one answer, and whether it is desirable

A whole conversation is a list of messages; a text of turns, each behind an empty line and
``Human:`` or ``Assistant:``; or a text, of which the words that both share are the prompt. A list
of messages may repeat the prompt. The prompt is all that both conversations share, and has to end
before the assistant's answer. Lines that ``bptool feedback`` wrote have a ``choice`` too; ties and
skips are counted, not used. docs/data.md has the whole table.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bptool.data.chat.records import Message, parse_messages, system_of, text_of
from bptool.data.decoding import Reading
from bptool.data.record_report import BadRecord, RecordReport
from bptool.data.records import RawRecord, parse_records

DECIDED, UNDECIDED = ("left", "right", "edit"), ("tie", "skip")
OF_FEEDBACK = ("choice", "left", "right", "reviewer", "seed", "number", "source", "format_version")
"""Keys that ``bptool feedback`` writes beside a preference."""
LABELS: dict[Any, bool] = {True: True, False: False, "true": True, "false": False}
LABELS |= {"1": True, "0": False, "desirable": True, "undesirable": False}
"""What a label may be; 1 and 0 are equal to true and false."""
_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")

Turns = tuple[Message, ...]


@dataclass(frozen=True)
class Preference:
    """Two answers to one prompt.

    Attributes:
        prompt: the conversation that is answered; its last message is the user's.
        chosen, rejected: the better answer, and the other. place: ``file:line``.
        plain: whether the record has texts alone, and says nothing of who speaks.
    """

    prompt: Turns
    chosen: str
    rejected: str
    place: str
    plain: bool = False


@dataclass(frozen=True)
class Judgement:
    """One answer, and whether it is desirable."""

    prompt: Turns
    answer: str
    good: bool
    place: str
    plain: bool = False


@dataclass(frozen=True)
class Undecided:
    """A line of a tie, or of a pair that was skipped."""

    place: str


@dataclass(frozen=True)
class Preferences:
    """What files of judgements hold; what was left out went into the report."""

    pairs: tuple[Preference, ...]
    judgements: tuple[Judgement, ...]

    @property
    def plain(self) -> bool:
        """Whether no record says who speaks."""
        plain = [one.plain for one in self.pairs], [one.plain for one in self.judgements]
        return all(map(all, plain))


def read_preferences(
    names: Sequence[Path | str], report: RecordReport, reading: Reading | None = None
) -> Preferences:
    """Read files of judgements; records that are broken go into ``report``, ties and skips too.

    Raises:
        DataError: a file cannot be read.
    """
    found = list(parse_records(names, parse_preference, report, reading))
    n_undecided = sum(isinstance(x, Undecided) for x in found)
    ties = "a tie or a skip" if n_undecided == 1 else "ties and skips"
    report.leave_out(ties, n_undecided)
    return Preferences(
        pairs=_without_repeats(tuple(x for x in found if isinstance(x, Preference))),
        judgements=tuple(x for x in found if isinstance(x, Judgement)),
    )


def parse_preference(record: RawRecord) -> Preference | Judgement | Undecided:
    """What a record says; BadRecord where it has none of the shapes."""
    choice = record["choice"] if "choice" in record else None
    if choice in UNDECIDED:
        record.ignore(*record)
        return Undecided(record.place)
    if choice in DECIDED:
        record.ignore(*OF_FEEDBACK)
    if "chosen" in record or "rejected" in record:
        return _pair(record)
    if "label" in record or "completion" in record:
        return _judgement(record)
    raise BadRecord(
        f"has {record.names()}; need prompt, chosen and rejected; or prompt, completion and label",
        "without chosen and rejected",
    )


def _pair(record: RawRecord) -> Preference:
    chosen, rejected = (_said(record, key) for key in ("chosen", "rejected"))
    asked = _asked(record)
    texts = isinstance(chosen, str) and isinstance(rejected, str)
    if isinstance(chosen, str) and isinstance(rejected, str) and not asked:
        prompt, chosen, rejected = _common_beginning(chosen, rejected)
        system = system_of(record, ())
        turns = (*system, Message("user", prompt))
        return Preference(turns, chosen, rejected, record.place, not system)
    both = [_whole(x, key, asked) for x, key in ((chosen, "chosen"), (rejected, "rejected"))]
    shared = min(map(len, both)) - 1
    n = next((i for i in range(shared) if not _same(both[0][i], both[1][i])), shared)
    prompt_turns = both[0][:n]
    if len(both[0]) == len(both[1]) == n + 1 and both[0][n] == both[1][n]:
        raise BadRecord("chosen and rejected are the same answer", "of which both answers are one")
    if not prompt_turns or prompt_turns[-1].role != "user":
        raise BadRecord(
            "chosen and rejected share no beginning that ends with the user",
            "whose answers share no prompt",
        )
    plain = texts and len(prompt_turns) == 1 and isinstance(record.get("prompt"), str)
    plain = plain and not _is_transcript(record["prompt"])
    better, worse = _only(both[0][n:], "chosen"), _only(both[1][n:], "rejected")
    return Preference(prompt_turns, better, worse, record.place, plain)


def _judgement(record: RawRecord) -> Judgement:
    label = record.get("label")
    key = label.strip().lower() if isinstance(label, str) else label
    if not isinstance(key, bool | int | float | str) or key not in LABELS:
        raise BadRecord(
            f"label is {'missing' if label is None else repr(label)}, not true or false, 1 or 0",
            "without a label of true or false",
        )
    if "completion" not in record and "messages" in record:
        turns = parse_messages(record["messages"], "messages", record)
        turns = (*system_of(record, turns), *turns)
        prompt, last = turns[:-1], turns[-1:]
        if not prompt or prompt[-1].role != "user":
            raise BadRecord("messages has no answer to what the user says", "without an answer")
        answer = _only(last, "messages")
        return Judgement(prompt, answer, LABELS[key], record.place)
    said, asked = _said(record, "completion"), _asked(record)
    if not asked:
        raise BadRecord("prompt is missing or empty", "without prompt")
    turns = _whole(said, "completion", asked)
    prompt, answer = turns[:-1], _only(turns[-1:], "completion")
    plain = isinstance(said, str) and len(prompt) == 1 and isinstance(record.get("prompt"), str)
    plain = plain and not _is_transcript(record["prompt"])
    return Judgement(prompt, answer, LABELS[key], record.place, plain)


def _said(record: RawRecord, key: str) -> str | Turns:
    """What stands under ``key``: a text, or messages."""
    value = record.get(key)
    if isinstance(value, str) and value:
        return _transcript(value, key) if _is_transcript(value) else value
    if isinstance(value, dict):
        value = [value]
    if not value:
        need = "prompt, completion and label" if key == "completion" else "prompt, chosen, rejected"
        raise BadRecord(f"{key} is missing or empty; need {need}", f"without {key}")
    return parse_messages(value, key, record)


def _asked(record: RawRecord) -> Turns:
    """The prompt that a record names, without its answers; nothing where it names none."""
    turns: Turns = ()
    prompt = record.get("prompt")
    if isinstance(prompt, str) and prompt:
        turns = _transcript(prompt, "prompt") if _is_transcript(prompt) else ()
        turns = turns or (Message("user", prompt),)
    elif prompt:
        turns = parse_messages(prompt, "prompt", record)
    elif record.get("conversations"):
        turns = parse_messages(record["conversations"], "conversations", record)
    elif record.get("instruction"):
        more = f"\n\n{text_of(record, 'input')}" if record.get("input") else ""
        turns = (Message("user", text_of(record, "instruction") + more),)
    if not turns:
        return ()
    turns = (*system_of(record, turns), *turns)
    if turns[-1].role != "user":
        raise BadRecord(
            f"prompt ends with what the {turns[-1].role} says, not the user",
            "whose prompt does not end with the user",
        )
    return turns


def _whole(said: str | Turns, key: str, asked: Turns) -> Turns:
    """The whole conversation that ends with an answer to ``asked``, which may repeat it."""
    if isinstance(said, str):
        if not asked:
            raise BadRecord(f"there is no prompt, and {key} is no conversation", "without a prompt")
        return (*asked, Message("assistant", said))
    if not asked:
        return said
    if said[0].role == "assistant":
        return (*asked, *said)
    system, question = asked[: asked[0].role == "system"], asked[asked[0].role == "system" :]
    own, rest = said[: said[0].role == "system"], said[said[0].role == "system" :]
    if system and own and not _same(system[0], own[0]):
        raise BadRecord(f"{key} has another system than prompt", "with two systems")
    begins = len(rest) > len(question) and all(map(_same, rest, question))
    if not begins and not (len(question) == 1 and any(_same(m, question[0]) for m in rest)):
        raise BadRecord(
            f"{key} is a conversation in which prompt does not stand",
            "whose answers do not repeat their prompt",
        )
    return (*(own or system), *rest)


def _same(one: Message, other: Message) -> bool:
    """Whether two messages say the same, but for the blanks around it."""
    return one.role == other.role and one.content.strip() == other.content.strip()


def _only(messages: Turns, key: str) -> str:
    if len(messages) != 1 or messages[0].role != "assistant":
        raise BadRecord(
            f"{key} continues with more than one message of the assistant after what both share",
            "with more than one message to compare",
        )
    return messages[0].content


def _common_beginning(chosen: str, rejected: str) -> tuple[str, str, str]:
    """The words that two texts share at their beginning, and what follows in each."""
    most = min(len(chosen), len(rejected))
    n = next((i for i in range(most) if chosen[i] != rejected[i]), most)
    shared = chosen[:n]
    cut = max((i + 1 for i, c in enumerate(shared) if c.isspace()), default=0)
    if not shared[:cut].strip() or not chosen[cut:].strip() or not rejected[cut:].strip():
        raise BadRecord(
            "there is no prompt, and chosen and rejected share no beginning", "without a prompt"
        )
    return shared[:cut], chosen[cut:], rejected[cut:]


def _without_repeats(pairs: tuple[Preference, ...]) -> tuple[Preference, ...]:
    """Pairs whose texts do not begin with their prompt, where all do: one answer may begin so by
    chance, and those of several prompts do not."""
    if len({pair.prompt for pair in pairs}) < 2:
        return pairs
    made = []
    for pair in pairs:
        asked = pair.prompt[-1].content.rstrip()
        answers = pair.chosen, pair.rejected
        if not pair.plain or not all(a.startswith(asked) and a != asked for a in answers):
            return pairs
        chosen, rejected = (answer.removeprefix(asked) for answer in answers)
        prompt = (*pair.prompt[:-1], Message("user", asked))
        made.append(replace(pair, prompt=prompt, chosen=chosen, rejected=rejected))
    return tuple(made)


def _is_transcript(text: str) -> bool:
    """Whether a text is turns behind ``Human:`` and ``Assistant:``."""
    begins = _TURN.match(text)
    return begins is not None and begins[1] == "Human" and "\n\nAssistant:" in text


def _transcript(text: str, key: str) -> Turns:
    """Messages of ``"\\n\\nHuman: ...\\n\\nAssistant: ..."``; an empty last turn is an answer's
    place."""
    _, *parts = _TURN.split(text)
    if key == "prompt" and parts[-2] == "Assistant" and not parts[-1].strip():
        del parts[-2:]
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = zip(parts[::2], parts[1::2], strict=True)
    return parse_messages(
        [{"role": roles[name], "content": said.strip()} for name, said in turns], key
    )
