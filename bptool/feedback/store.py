"""The file of judgements: one JSON object a line, on the disk before the next is asked for.

    {"prompt", "chosen", "rejected", "choice", "left", "right", "reviewer", ...}

Lines with ``chosen`` and ``rejected`` are preference data as other tools read it; of a tie and of
what was skipped both are null. A line is appended and flushed to the disk as soon as a judgement is
made. The command lets one process at a time write to a file (``training/lock.py``), and none is
lost if others do (``lines.py``). A line that a crash tore is dropped when the file is opened again:
it was never said to be saved.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from bptool.data.record_report import BadRecord
from bptool.errors import DataError
from bptool.feedback.lines import append_line, change_lines, read_lines
from bptool.feedback.prompts import as_messages, from_json, to_json
from bptool.files import loads_strictly
from bptool.inference.answers import Prompt

FORMAT_VERSION = 1
Choice = Literal["left", "right", "tie", "skip", "edit"]
CHOICES = get_args(Choice)
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Judgement:
    """One pair of answers, and what a reviewer said of it.

    Attributes:
        prompt: what was asked. left, right: the answers, as they were shown.
        choice: ``edit``: the reviewer wrote a better answer than the one that is rejected.
        chosen, rejected: the better and the worse answer; None of a tie and of what was skipped.
        reviewer: who judged. seed, number: what the answers were drawn by.
        source: the run, its step, and the file of rules where it was no person.
    """

    prompt: Prompt
    left: str
    right: str
    choice: Choice
    chosen: str | None
    rejected: str | None
    reviewer: str
    seed: int
    number: int
    source: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {
            "prompt": to_json(self.prompt),
            "chosen": self.chosen,
            "rejected": self.rejected,
            "choice": self.choice,
            "left": self.left,
            "right": self.right,
            "reviewer": self.reviewer,
            "seed": self.seed,
            "number": self.number,
            "source": self.source,
            "format_version": FORMAT_VERSION,
        }


def decided(
    prompt: Prompt, left: str, right: str, choice: Choice, edited: str | None = None, **rest: Any
) -> Judgement:
    """The judgement of a choice. Of an ``edit``, ``edited`` replaces what ``left`` then is."""
    pairs = {"left": (left, right), "right": (right, left), "edit": (edited, left)}
    chosen, rejected = pairs.get(choice, (None, None))
    return Judgement(prompt, left, right, choice, chosen, rejected, **rest)


class Store:
    """A file of judgements, read when it is opened.

    Attributes:
        judgements: all there are, in order.

    Raises:
        DataError: the file is not one of judgements.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.judgements = self._read()

    def add(self, judgement: Judgement) -> None:
        """Append a judgement; it is on the disk when this returns."""
        with self._writing():
            append_line(self.path, _line(judgement))
        self.judgements.append(judgement)

    def undo(self, reviewer: str) -> Judgement | None:
        """Take back the last judgement of ``reviewer``; None where there is none.

        Those that others made meanwhile are kept, and known from then on.
        """
        if all(j.reviewer != reviewer for j in self.judgements):
            return None
        taken: list[Judgement] = []
        kept: list[Judgement] = []

        def without_last(data: bytes) -> bytes:
            kept.extend(self._parse(data))
            own = [i for i, j in enumerate(kept) if j.reviewer == reviewer]
            taken.extend(kept.pop(i) for i in own[-1:])
            return b"".join(_line(j) + b"\n" for j in kept)

        with self._writing():
            try:
                change_lines(self.path, without_last)
            except OSError:
                if self._read() != kept:
                    raise  # else it is done: flushing the folder failed after that
        self.judgements = kept
        return taken[0] if taken else None

    def answered(self, reviewer: str) -> set[tuple[Any, ...]]:
        """The prompts that ``reviewer`` has judged, as messages."""
        return {as_messages(j.prompt) for j in self.judgements if j.reviewer == reviewer}

    def _read(self) -> list[Judgement]:
        try:
            return list(self._parse(read_lines(self.path)))
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror or error}") from None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"{self.path} cannot be written: {error.strerror or error}; "
                f"the {len(self.judgements):,} judgements before are kept"
            ) from None

    def _parse(self, data: bytes) -> Iterator[Judgement]:
        for number, line in enumerate(data.split(b"\n"), 1):
            if not line.strip():
                continue
            try:
                yield _judgement(loads_strictly(line))
            except (ValueError, RecursionError, BadRecord) as error:
                raise DataError(
                    f"{self.path}:{number} is no judgement ({error}); mend it, or name another "
                    "file with --out"
                ) from None


def _line(judgement: Judgement) -> bytes:
    try:
        return json.dumps(judgement.to_json(), ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(
            "the answer holds half of a surrogate pair, which is no character; write it again"
        ) from None


def _judgement(value: Any) -> Judgement:
    if not isinstance(value, dict) or value.get("choice") not in CHOICES:
        raise BadRecord("it has no choice")
    if (version := value.get("format_version", FORMAT_VERSION)) != FORMAT_VERSION:
        raise BadRecord(f"format_version {ascii(version)[:40]}: update bptool")
    for key in ("left", "right", "reviewer"):
        if not isinstance(value.get(key), str):
            raise BadRecord(f"{key} is not a text")
    for key in ("chosen", "rejected"):
        if key not in value or not isinstance(value[key], str | None):
            raise BadRecord(f"{key} is neither a text nor null")
    for key in ("seed", "number"):
        if not isinstance(value.get(key), int):
            raise BadRecord(f"{key} is not a whole number")
    if _SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        raise BadRecord("half of a surrogate pair is no character")
    names = ("left", "right", "choice", "chosen", "rejected", "reviewer", "seed", "number")
    source = value.get("source")
    return Judgement(
        prompt=from_json(value.get("prompt")),
        source=source if isinstance(source, dict) else {},
        **{name: value[name] for name in names},
    )
