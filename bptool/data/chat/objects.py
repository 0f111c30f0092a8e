"""JSON objects from JSON or JSON Lines files, compressed or not: one at a time, with its place."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any, TypeVar

from bptool.data.streams import open_zstd, unreadable
from bptool.errors import DataError
from bptool.files import require_regular

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
"""What files of each begin with."""
MAX_LINE_BYTES = 16 * 2**20
MAX_JSON_BYTES = 512 * 2**20
"""Of a file that is one JSON list, which has to be read as a whole."""
MOST_SHOWN = 10
"""Broken records that an error names one by one."""

Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class Broken:
    """A record that cannot be used: ``file:line``, and why."""

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


class BadRecord(Exception):
    """Why a value is no record; caught by :func:`read_parsed`."""


def read_parsed(
    paths: Iterable[Path | str], parse: Callable[[dict[str, Any], str], Parsed]
) -> tuple[list[Parsed], list[Broken]]:
    """What ``parse`` makes of every object of the files, and the records that are broken.

    ``parse`` takes an object and its place, and raises :class:`BadRecord` where it cannot be used.

    Raises:
        DataError: a file cannot be read, or is not JSON at all.
    """
    found: list[Parsed] = []
    broken: list[Broken] = []
    for path in paths:
        for place, value in _read_values(Path(path)):
            if isinstance(value, Broken):
                broken.append(value)
            elif not isinstance(value, dict):
                broken.append(Broken(place, f"is {_kind(value)}, not an object"))
            else:
                try:
                    found.append(parse(value, place))
                except BadRecord as error:
                    broken.append(Broken(place, str(error)))
    return found, broken


def refuse_broken(broken: Sequence[Broken], skip: bool) -> None:
    """Raise a DataError that lists ``broken``, unless they are to be skipped."""
    if not broken or skip:
        return
    shown = "\n".join(f"  {record}" for record in broken[:MOST_SHOWN])
    more = len(broken) - MOST_SHOWN
    rest = f"\n  and {more:,} more" if more > 0 else ""
    n = "1 record is" if len(broken) == 1 else f"{len(broken):,} records are"
    raise DataError(f"{n} broken; mend them or leave them out with --skip-bad\n{shown}{rest}")


def _read_values(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        with _open(path) as file:
            first = file.readline(MAX_LINE_BYTES + 1)
            if not first:
                raise DataError(f"{path}: the file is empty; name a file with records in it")
            if first.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[":
                yield from _read_list(path, first, file)
            else:
                yield from _read_lines(path, first, file)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the name and the folder") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: not a whole gzip file ({error}); copy it again") from None
    except OSError as error:
        if path.is_dir():
            raise DataError(f"{path}: is a folder; name a file of records in it") from None
        raise DataError(unreadable(path, error)) from None
    except ValueError as error:
        raise DataError(f"{str(path)!r}: cannot be the name of a file ({error})") from None


def _open(path: Path) -> BufferedIOBase:
    require_regular(path)
    file = path.open("rb")
    start = file.read(len(ZSTD))
    file.seek(0)
    if not start.startswith((GZIP, ZSTD)):
        return file
    file.close()
    return gzip.open(path, "rb") if start.startswith(GZIP) else open_zstd(path)


def _read_lines(path: Path, first: bytes, file: BufferedIOBase) -> Iterator[tuple[str, Any]]:
    number, line = 1, first.removeprefix(b"\xef\xbb\xbf")
    while line:
        place = f"{path}:{number}"
        if len(line) > MAX_LINE_BYTES:
            raise DataError(f"{place}: a line of over {MAX_LINE_BYTES:,} bytes; not JSON Lines")
        if line.strip():
            yield place, _parse(line, place)
        number, line = number + 1, file.readline(MAX_LINE_BYTES + 1)


def _read_list(path: Path, first: bytes, file: BufferedIOBase) -> Iterator[tuple[str, Any]]:
    data = first + file.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise DataError(f"{path}: a JSON list of over {MAX_JSON_BYTES:,} bytes; use JSON Lines")
    value = _parse(data.removeprefix(b"\xef\xbb\xbf"), str(path))
    if isinstance(value, Broken):
        raise DataError(str(value))
    for number, item in enumerate(value, 1):
        yield f"{path}, record {number}", item


def _parse(data: bytes, place: str) -> Any:
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        byte = f"0x{data[error.start]:02X}"
        return Broken(place, f"byte {byte} at offset {error.start} is not UTF-8")
    except json.JSONDecodeError as error:
        return Broken(place, f"not JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:
        return Broken(place, f"not JSON: {error}")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
