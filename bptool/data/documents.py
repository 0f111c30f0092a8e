"""Records with a field of text, one at a time: JSON Lines, JSON lists, CSV and Parquet.

A record of over :data:`MOST_CHARACTERS` characters is refused, so that a file without line ends,
or a few bytes that decompress without an end, cost no more memory than that.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from bptool.data.streams import COMPRESSED, optional, read_chunks
from bptool.errors import DataError

MOST_CHARACTERS = 1 << 26
_NEAR_THE_END = 16
"""Characters: an error of JSON this near to the end of what was read may be for want of more."""
_ROWS = 256

Documents = Iterator[tuple[str, str]]
"""``file:line`` or the like, and a text."""


def from_json(slices: Iterable[str], path: Path, field: str) -> Documents:
    """The documents of JSON Lines, or of one JSON list.

    Raises:
        DataError: a record is not JSON or has no such field; names the file and its line.
    """
    slices = iter(slices)
    start = ""
    for piece in slices:
        start += piece
        if start.strip() or len(start) > MOST_CHARACTERS:
            break
    rest = chain([start], slices)
    if start.lstrip()[:1] == "[":
        values = _list(rest, path)
    else:
        values = _lines(rest, path)
    for place, value in values:
        yield place, _field(value, place, field)


def from_csv(slices: Iterable[str], path: Path, field: str) -> Documents:
    """A document for each row.

    Raises:
        DataError: it is not CSV or has no such column.
    """
    csv.field_size_limit(MOST_CHARACTERS)
    reader = csv.reader(_csv_lines(slices, path))
    try:
        header = next(reader, [])
        if field not in header:
            shown = ", ".join(map(repr, header[:6])) or "no columns"
            raise DataError(f"{path}:1: no column '{field}' ({shown}); name one with data.field")
        column = header.index(field)
        for row in reader:
            if len(row) > column:
                yield f"{path}:{reader.line_num}", row[column]
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not CSV ({error}); mend the line") from None


def from_parquet(path: Path, field: str) -> Documents:
    """A document for each row of a Parquet file, which may be compressed as a whole too.

    Raises:
        DataError: pyarrow is not there, the file is damaged, or has no such column.
    """
    library = optional("pyarrow.parquet", "parquet", path)
    with tempfile.TemporaryFile() as unpacked:
        source: Any = path
        if path.suffix.lower() in COMPRESSED:  # it is read from its end first
            for chunk in read_chunks(path):
                unpacked.write(chunk)
            unpacked.seek(0)
            source = unpacked
        else:
            next(read_chunks(path), b"")  # that it can be read, with our own errors
        try:
            file = library.ParquetFile(source)
            names = file.schema_arrow.names
        except Exception as error:  # whatever pyarrow makes of a damaged file
            raise DataError(f"{path}: not a parquet file ({_said(error)}); copy it again") from None
        if field not in names:
            shown = ", ".join(map(repr, names[:6]))
            raise DataError(f"{path}: no column '{field}' ({shown}); name one with data.field")
        number = 0
        batches = iter(file.iter_batches(batch_size=_ROWS, columns=[field]))
        while True:
            try:
                batch = next(batches, None)
                values = [] if batch is None else batch.column(0).to_pylist()
            except Exception as error:  # whatever pyarrow makes of a damaged page
                raise DataError(
                    f"{path}: not a whole parquet file ({_said(error)}); copy it again"
                ) from None
            if batch is None:
                return
            for value in values:
                number += 1
                if value is not None and not isinstance(value, str):
                    raise DataError(f"{path}, row {number}: '{field}' is not a text; name another")
                yield f"{path}, row {number}", value or ""


def _said(error: Exception) -> str:
    """A message of another library in one line."""
    return " ".join(str(error).split())[:200]


def _text_lines(slices: Iterable[str], path: Path) -> Iterator[tuple[int, str]]:
    """Lines without their ends, numbered from 1."""
    number, held = 0, ""
    for piece in slices:
        *whole, held = (held + piece).split("\n")
        for line in whole:
            number += 1
            yield number, line
        if len(held) > MOST_CHARACTERS:
            raise DataError(
                f"{path}:{number + 1}: a line of over {MOST_CHARACTERS:,} characters; a record "
                "has to be shorter"
            )
    if held:
        yield number + 1, held


def _lines(slices: Iterable[str], path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in _text_lines(slices, path):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            yield place, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: not JSON ({error}); mend the line") from None


def _list(slices: Iterator[str], path: Path) -> Iterator[tuple[str, Any]]:
    """The values of a JSON list, as they come."""
    decoder = json.JSONDecoder()
    text, at, number, wanted = next(slices).lstrip(), 1, 0, "value or end"
    ended = False
    while True:
        at = _past_space(text, at)
        if wanted != "nothing" and at < len(text):
            if text[at] == "]" and wanted != "value":
                wanted, at = "nothing", at + 1
                continue
            if wanted == "comma or end":
                if text[at] != ",":
                    raise _not_json(path, number + 1, "expecting ',' or ']'")
                wanted, at = "value", at + 1
                continue
            try:
                value, end = decoder.raw_decode(text, at)
                if end == len(text) and not ended:  # a number may go on
                    raise json.JSONDecodeError("", text, end)
            except json.JSONDecodeError as error:
                unfinished = error.msg.startswith("Unterminated string")
                near = unfinished or error.pos >= len(text) - _NEAR_THE_END
                if ended or not near or len(text) - at > MOST_CHARACTERS:
                    raise _not_json(path, number + 1, error.msg or "too long") from None
            except RecursionError as error:
                raise _not_json(path, number + 1, str(error)) from None
            else:
                number += 1
                yield f"{path}, record {number}", value
                wanted, at = "comma or end", end
                continue
        elif at < len(text):
            raise _not_json(path, number + 1, "there is more after the end of the list")
        if ended:
            if wanted != "nothing":
                raise _not_json(path, number + 1, "the list does not end")
            return
        piece = next(slices, None)
        ended = piece is None
        text, at = text[at:] + (piece or ""), 0


def _past_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _not_json(path: Path, number: int, why: str) -> DataError:
    return DataError(f"{path}, record {number}: not JSON ({why}); mend the file")


def _field(value: Any, place: str, field: str) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, dict) or field not in value:
        keys = ", ".join(map(repr, list(value)[:6])) if isinstance(value, dict) else "no fields"
        raise DataError(f"{place}: no field '{field}' ({keys}); name one with data.field")
    if not isinstance(value[field], str):
        raise DataError(f"{place}: the field '{field}' is not a text; name another")
    return value[field]


def _csv_lines(slices: Iterable[str], path: Path) -> Iterator[str]:
    """Lines with their ends, of which a lone CR is one."""
    for _, line in _text_lines(slices, path):
        if "\r" in line:
            yield from io.StringIO(line + "\n", newline="")
        else:
            yield line + "\n"
