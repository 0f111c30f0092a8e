"""The rows of tables as records: CSV, TSV and Parquet, whose columns are keys."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bptool.data import json_values
from bptool.data.json_values import Placed, text_lines
from bptool.data.record_report import Fault, RecordReport
from bptool.data.streams import PARQUET, optional, read_chunks
from bptool.errors import DataError
from bptool.files import open_regular

DELIMITERS = (",", "\t", ";")
LISTS = ("messages", "conversations", "history")
"""Columns of which every cell is a list, as JSON."""
MAYBE_LISTS = ("prompt", "completion", "chosen", "rejected")
"""Columns of which a cell is a text, or a list of messages as JSON."""
TRUTH = {"true": True, "false": False, "1": True, "0": False}
_ROWS = 256


def csv_header(line: str) -> list[str]:
    """The names of columns in a first line, whatever stands between them."""
    return next(csv.reader([line], delimiter=_delimiter(line)), [])


def csv_rows(slices: Iterable[str], path: Path) -> Iterator[Placed]:
    """A dict for each row, of which an :class:`Fault` stands for a broken one.

    Raises:
        DataError: it is not CSV, or has no header.
    """
    csv.field_size_limit(json_values.MOST_CHARACTERS)
    lines = _csv_lines(slices, path)
    first = next(lines, "")
    reader = csv.reader(_chained(first, lines), delimiter=_delimiter(first))
    try:
        header = next(reader, [])
        if not any(header) or len(set(header)) < len(header):
            raise DataError(
                f"{path}:1: the first line does not name every column once; write such a line"
            )
        begun = reader.line_num + 1
        for row in reader:
            place, begun = f"{path}:{begun}", reader.line_num + 1
            if len(row) == len(header):
                value = dict(zip(header, row, strict=True))
                yield Placed(place, _with_lists(value), "".join(row))
            elif row:
                kind = "with another number of columns than the first line has"
                reason = f"has {len(row):,} columns, and the first line {len(header):,}"
                yield Placed(place, Fault(reason, kind), "")
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not CSV ({error}); mend the line") from None


def parquet_rows(path: Path, report: RecordReport, only: str | None = None) -> Iterator[Placed]:
    """A dict for each row of a Parquet file, which may be compressed as a whole too.

    Args:
        report: told of columns that are not read. only: the one to read, where there is such a one.

    Raises:
        DataError: pyarrow is not there, or the file is damaged.
    """
    library = optional("pyarrow.parquet", "parquet", path)
    with tempfile.TemporaryFile() as unpacked:
        source: Any = path
        with open_regular(path) as file:
            plain = file.read(len(PARQUET)) == PARQUET
        if not plain:  # it is read from its end first
            for chunk in read_chunks(path):
                unpacked.write(chunk)
            unpacked.seek(0)
            source = unpacked
        try:
            table = library.ParquetFile(source)
            names = table.schema_arrow.names
            columns = [only] if only in names else names
            for name in set(names) - set(columns):
                report.add_unused(name, table.metadata.num_rows)
            batches = table.iter_batches(batch_size=_ROWS, columns=columns)
            number = 0
            for batch in batches:
                for value in batch.to_pylist():
                    number += 1
                    yield Placed(f"{path}, row {number}", value, "")
        except DataError:
            raise
        except Exception as error:  # whatever pyarrow makes of a damaged file or page
            said = " ".join(str(error).split())[:200]
            raise DataError(f"{path}: not a whole parquet file ({said}); copy it again") from None


def _chained(first: str, lines: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from lines


def _delimiter(line: str) -> str:
    return max(DELIMITERS, key=line.count)


def _with_lists(row: dict[str, str]) -> Any:
    """A row with the lists and truth values that its cells spell."""
    value: dict[str, Any] = dict(row)
    for key in (*LISTS, *MAYBE_LISTS):
        cell = row.get(key, "")
        if not cell.strip():
            if key in LISTS:
                value.pop(key, None)
            continue
        try:
            spelled = json.loads(cell) if cell.lstrip()[0] == "[" else None
        except (ValueError, RecursionError):
            spelled = None
        if isinstance(spelled, list) and (key in LISTS or _are_messages(spelled)):
            value[key] = spelled
        elif key in LISTS:
            return Fault(f"the cell of {key} is not a list in JSON", f"with {key} not in JSON")
    if row.get("label", "").lower() in TRUTH:
        value["label"] = TRUTH[row["label"].lower()]
    return value


def _are_messages(value: list[Any]) -> bool:
    return bool(value) and all(
        isinstance(x, dict) and not {"role", "from"}.isdisjoint(x) for x in value
    )


def _csv_lines(slices: Iterable[str], path: Path) -> Iterator[str]:
    """Lines with their ends, of which a lone CR is one."""
    for _, line in text_lines(slices, path):
        if "\r" in line:
            yield from io.StringIO(line + "\n", newline="")
        else:
            yield line + "\n"
