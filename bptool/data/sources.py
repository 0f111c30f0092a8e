"""Texts from what people have: files, folders, patterns; plain, or records with a field of text.

    book.txt notes.md          a text each; so is a file of any other name
    folder/                    every file below with a suffix of ``SUFFIXES``, in the order of names
    books/*.txt                what the pattern matches, in the order of names
    talks.jsonl talks.json     a document for each record: its ``field``, or a record that is a text
    talks.csv                  a document for each row: the column ``field``
    talks.parquet              the same; needs the extra ``parquet``
    book.txt.gz talks.jsonl.zst   any of these compressed; ``.zst`` needs the extra ``zstd``

Texts are read in slices, anew each time they are gone through, so that any size fits in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bptool.data.decoding import MARKS, Encoding, Reading, characters_of, encoding_of, fault_in
from bptool.data.record_report import RecordReport
from bptool.data.records import read_values
from bptool.data.streams import COMPRESSED, read_chunks
from bptool.data.text import RECORDS, expand, kind
from bptool.errors import DataError

_MAYBE_EMPTY = 64
"""Bytes of a compressed file, or of one with a byte order mark, that may hold nothing."""
_NOTHING = (b"", *(mark for mark, _ in MARKS))


@dataclass(frozen=True)
class Source:
    """One text.

    Attributes:
        place: the file, or the file and where in it the record stands.
        slices: reads the text from its start, in parts that are not empty.
        is_document: whether it is one document of its own, or may hold several.
        n_bytes: how many bytes of UTF-8 it probably is, or 0 where that is not known beforehand.
    """

    place: str
    slices: Callable[[], Iterable[str]]
    is_document: bool = False
    n_bytes: int = 0

    @property
    def text(self) -> str:
        """All of it at once."""
        return "".join(self.slices())


class Texts:
    """The texts of files, folders and patterns, in order, as often as they are gone through.

    Attributes:
        report: what was noticed the last time that they were gone through to the end.

    Args:
        names: files, folders, patterns, ``dataset:NAME``.
        reading: how they are read.

    Raises:
        DataError: at once where a name stands for no file; while they are gone through, where one
            cannot be read, is empty or no text. The message names the file, and for a bad byte its
            line and its offset in the file (from 0).
    """

    def __init__(self, names: Sequence[str | Path], reading: Reading | None = None) -> None:
        self.reading = reading or Reading()
        self.paths: list[Path] = []
        self._maybe_empty: set[Path] = set()
        for name in names:
            found = expand(name)
            self.paths += found
            if len(found) > 1:  # one that is named by itself has to hold something
                self._maybe_empty.update(found)
        self._encodings: dict[Path, Encoding] = {}
        self.report = RecordReport()

    def __iter__(self) -> Iterator[Source]:
        report, n = RecordReport(), 0
        for path in self.paths:
            if path in self._maybe_empty and self._is_empty(path):
                report.empty_files.append(str(path))
                continue
            if kind(path) in RECORDS:
                yield from self._records(path, report)
            else:
                yield Source(str(path), partial(self._plain, path), n_bytes=self._guess(path))
            n += 1
        report.refuse(
            self.reading.errors == "skip",
            "mend them, or leave them out with --set data.errors=skip",
        )
        if n == 0:
            names = ", ".join(map(str, self.paths[:3]))
            raise DataError(f"{names}: all files are empty; name one with text in it")
        self.report = report

    def _characters(self, path: Path) -> Iterator[str]:
        if path not in self._encodings:
            chunks = partial(read_chunks, path)
            self._encodings[path] = encoding_of(chunks, path, self.reading.encoding)
        return characters_of(path, self.reading, self._encodings[path])

    def _plain(self, path: Path) -> Iterator[str]:
        empty = True
        for piece in self._characters(path):
            empty = False
            yield piece
        if empty:
            raise DataError(f"{path}: the file is empty; name a file with text in it")

    def _is_empty(self, path: Path) -> bool:
        try:
            size = path.stat().st_size
        except (OSError, ValueError):
            return False  # said when it is read
        return size == 0 or (size <= _MAYBE_EMPTY and next(read_chunks(path), b"") in _NOTHING)

    def _guess(self, path: Path) -> int:
        """Right for plain UTF-8 without a mark and with line ends of LF."""
        if path.suffix.lower() in COMPRESSED:
            return 0
        try:
            return path.stat().st_size
        except (OSError, ValueError):
            return 0  # said when it is read

    def _records(self, path: Path, report: RecordReport) -> Iterator[Source]:
        """The texts of records; ``report`` is told of those that have none, and of broken ones."""
        field, n, n_bad = self.reading.field, 0, report.n_bad
        for place, value in read_values(path, report, self.reading, field):
            report.n_records += 1
            text = value
            if isinstance(value, dict) and field in value:
                text = value[field]
                for key, other in value.items():
                    if key != field and other not in (None, "", [], {}):
                        report.add_unused(key)
            elif not isinstance(value, str):
                report.add_bad(place, _no_field(value, field), f"without the field '{field}'")
                continue
            if text is None or (isinstance(text, str) and not text.strip()):
                report.leave_out("without text")
            elif not isinstance(text, str):
                reason = f"the field '{field}' is not a text; name another with data.field"
                report.add_bad(place, reason, f"of which the field '{field}' is not a text")
            elif fault := fault_in(text):
                report.add_bad(
                    place, f"{fault.reason}; choose data.errors=replace or skip", fault.kind
                )
            else:
                n += 1
                yield Source(place, partial(_whole, text), True)
        if n == 0 and report.n_bad == n_bad:
            raise DataError(f"{path}: no record has text in its field '{field}'")


def _no_field(value: Any, field: str) -> str:
    if not isinstance(value, dict):
        return f"no field '{field}' (no fields); name one with data.field"
    names = ", ".join(map(repr, list(value)[:6])) or "no fields"
    if {"messages", "conversations", "completion", "output", "chosen"}.isdisjoint(value):
        return f"no field '{field}' ({names}); name one with data.field"
    return (
        f"no field '{field}' ({names}); `bptool finetune` learns from such records and "
        "`bptool data inspect --as sft` shows them, or name a field of text with data.field"
    )


def read_sources(names: Sequence[str | Path], reading: Reading | None = None) -> list[Source]:
    """The texts of ``names``, in order; see :class:`Texts`."""
    return list(Texts(names, reading))


def _whole(text: str) -> tuple[str]:
    return (text,)
