"""What was wrong with the records of files, by kind, and what of them was not used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from bptool.errors import DataError

MOST_SHOWN = 5
"""Broken records of a kind that are named one by one."""
MOST_KINDS, MOST_KEYS = 100, 1000
"""What is counted one by one; a hostile file could give any number of them."""
MOST_CHARACTERS = 40
"""Unknown characters that are named."""
MOST_OF_A_KEY = 60
UNKNOWN = "with characters that the tokenizer does not know"
SKIP_OPTION = "--skip-bad"


class Fault(NamedTuple):
    """Why something cannot be used, and how that is counted: a phrase that follows a number."""

    reason: str
    kind: str


class BadRecord(Exception):
    """Why a record cannot be used.

    Args:
        reason: in full, about this record. kind: what is counted, as a phrase that follows a
            number ("with an unknown role"); the reason itself unless given.
    """

    def __init__(self, reason: str, kind: str = "") -> None:
        super().__init__(reason)
        self.kind = kind or reason


@dataclass
class _Kind:
    n: int = 0
    first: list[str] = field(default_factory=list)


class RecordReport:
    """Gathers what readers and tokenizers say of records, in memory that does not grow with them.

    Attributes:
        n_records: that were read, good or bad.
        empty_files: of folders and patterns, which hold nothing.
        unused: keys that nothing uses, and in how many records each has a value.
    """

    def __init__(self) -> None:
        self.n_records = 0
        self.empty_files: list[str] = []
        self.unused: dict[str, int] = {}
        self._kinds: dict[str, _Kind] = {}
        self._unknown: dict[str, int] = {}
        self._passed_over: dict[str, int] = {}

    @property
    def n_bad(self) -> int:
        """Records that cannot be used."""
        return sum(kind.n for kind in self._kinds.values())

    @property
    def bad(self) -> dict[str, int]:
        """How many records cannot be used, by kind."""
        return {name: kind.n for name, kind in self._kinds.items()}

    def add_bad(self, place: str, reason: str, kind: str = "") -> None:
        """Count a record that cannot be used; see :class:`BadRecord`."""
        name = kind or reason
        if name not in self._kinds and len(self._kinds) >= MOST_KINDS:
            name = "broken in other ways"
        found = self._kinds.setdefault(name, _Kind())
        found.n += 1
        if len(found.first) < MOST_SHOWN:
            found.first.append(f"{place}: {reason}")

    def leave_out(self, kind: str, n: int = 1) -> None:
        """Count records that are left out though nothing is wrong with them, as too long ones."""
        if n:
            self._passed_over[kind] = self._passed_over.get(kind, 0) + n

    def add_unknown(self, place: str, reason: str, characters: str) -> None:
        """Count a record with ``characters`` that no token stands for."""
        halves = all("\ud800" <= c <= "\udfff" for c in characters)
        self.add_bad(place, reason, "with half of a surrogate pair" if halves else UNKNOWN)
        for c in characters if not halves else "":
            if c in self._unknown or len(self._unknown) < MOST_KEYS:
                self._unknown[c] = self._unknown.get(c, 0) + 1

    def add_unused(self, key: str, n: int = 1) -> None:
        """Count records that have a value under a key that nothing uses."""
        if key in self.unused or len(self.unused) < MOST_KEYS:
            self.unused[key] = self.unused.get(key, 0) + n

    def refuse(self, skip_bad: bool = False, remedy: str = "") -> None:
        """Raise a DataError that counts and names the bad records, unless they are skipped."""
        if not self._kinds or skip_bad:
            return
        n = "1 record is" if self.n_bad == 1 else f"{self.n_bad:,} records are"
        remedy = remedy or f"mend them or leave them out with {SKIP_OPTION}"
        first = f"{n} broken ({_counts(self.bad)}); {remedy}"
        raise DataError("\n".join([first, *self.faults()]))

    def faults(self) -> list[str]:
        """The first bad records of each kind, and what they hold that no tokenizer knows."""
        lines = []
        for name, kind in self._kinds.items():
            lines += [f"  {record}" for record in kind.first]
            if kind.n > len(kind.first):
                lines.append(f"  and {kind.n - len(kind.first):,} more {name}")
            if name == UNKNOWN:
                lines.append(f"  these characters are not known: {self._characters()}")
        return lines

    def left_out(self) -> str:
        """How many records were left out and why, or nothing."""
        why = {**self.bad, **self._passed_over}
        if not why:
            return ""
        n = sum(why.values())
        return f"{records_counted(n)} {_were(n)} left out: {_counts(why)}"

    def notes(self) -> Iterator[str]:
        """What a person should know, a line each."""
        if left_out := self.left_out():
            yield left_out
        if self.empty_files:
            names = ", ".join(self.empty_files[:MOST_SHOWN])
            more = len(self.empty_files) - MOST_SHOWN
            rest = f" and {more:,} more" if more > 0 else ""
            n = len(self.empty_files)
            files = "1 file is" if n == 1 else f"{n:,} files are"
            yield f"{files} empty and {_were(n)} left out: {names}{rest}"
        for key, n in self.unused.items():
            yield f"the key {key[:MOST_OF_A_KEY]!r} of {records_counted(n)} is not used"

    def _characters(self) -> str:
        """The unknown characters, the commonest first, and in how many records each stands."""
        by_count = sorted(self._unknown.items(), key=lambda item: -item[1])
        shown = [
            f"{repr(c) if c.isprintable() else ascii(c)} (U+{ord(c):04X}) in {records_counted(n)}"
            for c, n in by_count[:MOST_CHARACTERS]
        ]
        more = len(by_count) - len(shown)
        return ", ".join(shown) + (f" and {more:,} more" if more else "")


def _counts(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in kinds.items())


def records_counted(n: int) -> str:
    """``1 record``, ``1,600 records``."""
    return "1 record" if n == 1 else f"{n:,} records"


def _were(n: int) -> str:
    return "was" if n == 1 else "were"
