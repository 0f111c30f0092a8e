"""The one reader of records, for whatever learns from them, measures or shows them.

    chat.jsonl       JSON Lines; also objects over several lines each
    chat.json        one list of records, or one object in which the list stands under a key
    chat.csv .tsv    a record for each row, the columns as keys
    chat.parquet     the same; needs the extra ``parquet``
    any of these with .gz or .zst; a folder, a pattern, dataset:NAME

What a file holds is told by how it begins, and by its name only where that leaves it open. To use::

    report = RecordReport()
    made = list(parse_records(names, parse, report, reading))
    report.refuse(skip_bad)

``parse`` makes something of a :class:`RawRecord`, or raises :class:`BadRecord`. What else is found
to be wrong with a record later goes into the same report before it is refused: by
``report.add_bad(record.place, ...)``, and by :func:`encoded` where it becomes tokens.
Keys that ``parse`` never asked for are counted there as not used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from bptool.data.decoding import Reading, advice, characters_of, guessed, mended
from bptool.data.json_values import Placed, json_values
from bptool.data.record_report import BadRecord, Fault, RecordReport
from bptool.data.streams import PARQUET, read_chunks
from bptool.data.tables import csv_header, csv_rows, parquet_rows
from bptool.data.text import RECORDS, expand, kind
from bptool.data.tokenizers.base import UnknownCharacters
from bptool.errors import DataError

KEYS = frozenset(
    "messages conversations chosen rejected instruction input output history prompt completion "
    "text label system".split()
)
"""Keys that forms of records have."""
_BAD_BYTES = re.compile("[\udc80-\udcff]")
_START = 1 << 16
"""Characters by which the kind of a file is told."""

Made = TypeVar("Made")


class RawRecord(Mapping[str, Any]):
    """A record as its file has it; a value that is null counts as none.

    Taking a value marks its key as used; asking whether it is there does not.

    Args:
        place: ``file:line`` or the like. value: the object of its file.
        report: told of keys inside its values that nothing uses.
    """

    def __init__(self, place: str, value: Mapping[str, Any], report: RecordReport) -> None:
        self.place, self.all = place, value
        self._report = report
        self._there = {key: item for key, item in value.items() if item is not None}
        self._used: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self._used.add(key)
        return self._there[key]

    def __contains__(self, key: object) -> bool:
        return key in self._there

    def __iter__(self) -> Iterator[str]:
        return iter(self._there)

    def __len__(self) -> int:
        return len(self._there)

    def rest(self) -> dict[str, Any]:
        """What was not taken, marked as used."""
        return {key: self[key] for key in self._there if key not in self._used}

    def ignore(self, *keys: str) -> None:
        """Mark keys as used that say nothing which matters here."""
        self._used.update(keys)

    def unused(self) -> list[str]:
        """Keys with a value that was not taken."""
        return [k for k, v in self._there.items() if k not in self._used and v not in ("", [], {})]

    def add_unused(self, key: str) -> None:
        """Say that something inside a value is not used, as ``messages.name``."""
        self._report.add_unused(key)

    def names(self) -> str:
        """The keys it has, to be shown."""
        shown = [repr(key[:60]) for key in list(self.all)[:6]]
        return f"the keys {', '.join(shown)}" if shown else "no keys"


def parse_records(
    names: Iterable[str | Path],
    parse: Callable[[RawRecord], Made],
    report: RecordReport,
    reading: Reading | None = None,
) -> Iterator[Made]:
    """What ``parse`` makes of every record of files, folders and patterns.

    Raises:
        DataError: a file cannot be read, is no file of records, or no name holds a record.
    """
    for record in raw_records(names, report, reading):
        try:
            made = parse(record)
        except BadRecord as error:
            report.add_bad(record.place, str(error), error.kind)
            continue
        for key in record.unused():
            report.add_unused(key)
        yield made


def encoded(place: str, encode: Callable[[], Made], report: RecordReport) -> Made | None:
    """What ``encode`` returns; or None where the record at ``place`` has characters that its
    tokenizer does not know, which goes into ``report``."""
    try:
        return encode()
    except UnknownCharacters as error:
        report.add_unknown(place, str(error), error.characters)
        return None


def raw_records(
    names: Iterable[str | Path], report: RecordReport, reading: Reading | None = None
) -> Iterator[RawRecord]:
    """The records of files, folders and patterns; what is no object goes into ``report``.

    Raises:
        DataError: as of :func:`parse_records`.
    """
    reading = reading or Reading()
    for name in names:
        paths = expand(name, RECORDS)
        n_empty = 0
        for path in paths:
            before = report.n_records
            for place, value in read_values(path, report, reading):
                report.n_records += 1
                if isinstance(value, Mapping):
                    yield RawRecord(place, value, report)
                else:
                    reason = f"is {_described(value)}, not an object"
                    report.add_bad(place, reason, "not an object")
            if report.n_records == before:
                n_empty += 1
                report.empty_files.append(str(path))
        if n_empty == len(paths):
            what = "the file is empty" if len(paths) == 1 else "all files are empty"
            raise DataError(f"{name}: {what}; name one with records in it")


def read_values(
    path: Path, report: RecordReport, reading: Reading, only: str | None = None
) -> Iterator[tuple[str, Any]]:
    """Every value of a file with its place, of any kind; what is broken goes into ``report``.

    Args:
        only: the one key that is wanted, where others can be left unread.

    Raises:
        DataError: the file cannot be read, or is no file of records.
    """
    remedy = ""
    for placed in _unwrapped(_placed(path, report, reading, only), path, report):
        place, value, raw = placed
        if isinstance(value, Fault):
            report.n_records += 1
            report.add_bad(place, *value)
            continue
        if not raw.isascii() and (bad := _BAD_BYTES.search(raw)):
            report.n_records += 1
            remedy = remedy or advice(partial(read_chunks, path))
            byte = f"byte 0x{ord(bad[0]) - 0xDC00:02X} at character {bad.start() + 1}"
            report.add_bad(
                place, f"{byte} is not {_shown(reading)}; {remedy}", "in another encoding"
            )
            continue
        yield place, value if reading.errors == "strict" else _mended(value, place, reading)


def _placed(
    path: Path, report: RecordReport, reading: Reading, only: str | None
) -> Iterator[Placed]:
    """The values of a file, whatever kind it is."""
    if next(read_chunks(path), b"").startswith(PARQUET) or kind(path) == ".parquet":
        return parquet_rows(path, report, only)
    slices = characters_of(path, reading, escaped=True)
    start = ""
    for piece in slices:
        start += piece
        if len(start) >= _START:
            break
    if (
        "\0" in start
        and reading.errors == "strict"
        and (name := guessed(partial(read_chunks, path)))
    ):
        raise DataError(f"{path}: looks like {name}; read it with data.encoding={name}")
    slices = chain([start] if start else [], slices)
    if _is_table(start, kind(path)):
        return csv_rows(slices, path)
    if kind(path) not in RECORDS and start.strip() and start.lstrip()[0] not in "{[":
        raise DataError(
            f"{path}: holds no records; give JSON Lines, JSON, CSV, TSV or Parquet (docs/data.md)"
        )
    return json_values(slices, path)


def _is_table(start: str, suffix: str) -> bool:
    """Whether a file that begins so is CSV or TSV."""
    lines = start.lstrip().split("\n", 1)
    if lines[0][:1] in ("{", "["):
        try:
            json.JSONDecoder().raw_decode(start.lstrip())
            return False
        except (ValueError, RecursionError):
            pass
    if suffix in (".csv", ".tsv"):
        return bool(start.strip())
    return not KEYS.isdisjoint(csv_header(lines[0])) if lines[0] and len(lines) > 1 else False


def _unwrapped(values: Iterator[Placed], path: Path, report: RecordReport) -> Iterator[Placed]:
    """``values``; or, where they are one object that holds a list of records, those of the list."""
    first = next(values, None)
    if first is None:
        return
    second = next(values, None)
    lists = {} if second or not isinstance(first.value, dict) else _lists_in(first.value)
    if not lists:
        yield from chain([first], [second] if second else [], values)
        return
    if len(lists) > 1:
        names = " and ".join(map(repr, lists))
        raise DataError(
            f"{path}: is one object with several lists of records, {names}; save each as a file "
            "and name those that you mean"
        )
    (name,) = lists
    for key, value in first.value.items():
        if key != name and value not in (None, "", [], {}):
            report.add_unused(key)
    for number, value in enumerate(lists[name], 1):
        raw = json.dumps(value, ensure_ascii=False)
        yield Placed(f"{path}, record {number} of '{name}'", value, raw)


def _lists_in(value: dict[str, Any]) -> dict[str, list[Any]]:
    """What may be a list of records in an object that is none itself."""
    if not KEYS.isdisjoint(value):
        return {}
    return {
        key: item
        for key, item in value.items()
        if isinstance(item, list) and item and all(isinstance(x, dict) for x in item)
    }


def _mended(value: Any, place: str, reading: Reading) -> Any:
    """A value of which all texts are :func:`mended`."""
    if isinstance(value, str):
        return mended(value, place, reading)
    if isinstance(value, list):
        return [_mended(item, place, reading) for item in value]
    if isinstance(value, dict):
        return {key: _mended(item, place, reading) for key, item in value.items()}
    return value


def _described(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _shown(reading: Reading) -> str:
    return "UTF-8" if reading.encoding == "utf-8" else reading.encoding
