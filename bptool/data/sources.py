"""Texts from what people have: files, folders, patterns; plain, or records with a field of text.

    book.txt notes.md          a text each; so is a file of any other name
    folder/                    every file below with a suffix of ``SUFFIXES``, in the order of names
    books/*.txt                what the pattern matches, in the order of names
    talks.jsonl talks.json     a document for each record: its ``field``, or a record that is a text
    talks.csv                  a document for each row: the column ``field``
    talks.parquet              the same; needs the extra ``parquet``
    book.txt.gz talks.jsonl.zst   any of these compressed; ``.zst`` needs the extra ``zstd``

Line ends: CRLF becomes LF, so that a file checked out on Windows gives the same tokens as
elsewhere. Nothing else changes; a byte order mark at the start is dropped.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import importlib
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bptool.data.text import resolve
from bptool.errors import DataError

SUFFIXES = (".txt", ".md", ".jsonl", ".json", ".csv", ".parquet")
COMPRESSED = (".gz", ".zst")
RECORDS = (".jsonl", ".json", ".csv", ".parquet")
PATTERN = frozenset("*?[")
MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
"""Byte order marks, the longer ones first, and the encoding that each stands for."""
DETECTED_FROM = 1 << 20
"""Bytes at the start of a file that its encoding is guessed from."""
REPLACEMENT = "�"

Errors = Literal["strict", "replace", "skip"]


@dataclass(frozen=True)
class Source:
    """One text, and whether it is one document of its own or may hold several."""

    text: str
    place: str
    is_document: bool = False


@dataclass(frozen=True)
class Reading:
    """How files are read.

    Attributes:
        encoding: a codec's name, or ``detect``.
        errors: what becomes of bytes that are no characters, and of NULs: an error that names
            them, U+FFFD, or nothing.
        field: of records, the one with the text.
    """

    encoding: str = "utf-8"
    errors: Errors = "strict"
    field: str = "text"


def read_sources(names: Sequence[str | Path], reading: Reading | None = None) -> list[Source]:
    """The texts of ``names``, in order.

    Raises:
        DataError: one is missing, empty, not readable or no text; the message names the file, and
            for a bad byte its line and its offset in the file (from 0).
    """
    reading = reading or Reading()
    return [source for name in names for path in expand(name) for source in _read(path, reading)]


def expand(name: str | Path) -> list[Path]:
    """The files that a name stands for: itself, those of a folder, or those of a pattern."""
    path = resolve(name)
    try:
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.is_file() and _suffix(p) in SUFFIXES)
            if not found:
                raise DataError(
                    f"{path}: the folder holds no text; name one with files that end in "
                    f"{', '.join(SUFFIXES)}, or these with .gz or .zst"
                )
            return found
        if path.exists() or not PATTERN & set(str(path)):
            return [path]
    except (OSError, ValueError) as error:
        raise DataError(f"{str(path)!r}: cannot be the name of a file ({error})") from None
    anchor = Path(path.anchor)
    found = sorted(p for p in anchor.glob(str(path.relative_to(anchor))) if p.is_file())
    if not found:
        raise DataError(f"{path}: no file matches the pattern; check it and the folder")
    return found


def _suffix(path: Path) -> str:
    """What a file holds, whatever it is compressed with."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _read(path: Path, reading: Reading) -> Iterator[Source]:
    data = _bytes(path)
    kind = _suffix(path)
    if kind not in RECORDS:
        text = decode(data, path, reading)
        if not text:
            raise DataError(f"{path}: the file is empty; name a file with text in it")
        yield Source(text, str(path))
        return
    if kind == ".parquet":
        documents = _parquet(data, path, reading.field)
    elif kind == ".csv":
        documents = _csv(decode(data, path, reading), path, reading.field)
    else:
        documents = _json(decode(data, path, reading), path, reading.field)
    n = 0
    for place, raw in documents:
        text = mended(raw, place, reading)
        if text.strip():
            n += 1
            yield Source(text, place, is_document=True)
    if n == 0:
        raise DataError(f"{path}: no record has text in its field '{reading.field}'")


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        if path.suffix.lower() == ".gz":
            return gzip.decompress(data)
        if path.suffix.lower() == ".zst":
            return _zstd(data, path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the name and the folder") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: not a whole gzip file ({error}); copy it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise DataError(f"{str(path)!r}: cannot be the name of a file ({error})") from None
    return data


def _zstd(data: bytes, path: Path) -> bytes:
    library = _optional("zstandard", "zstd", path)
    try:
        with library.ZstdDecompressor().stream_reader(io.BytesIO(data)) as reader:
            found: bytes = reader.read()
    except library.ZstdError as error:
        raise DataError(f"{path}: not a whole zstd file ({error}); copy it again") from None
    return found


def _optional(module: str, extra: str, path: Path) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise DataError(
            f'{path}: this needs the package {module}; install it: pip install "bptool[{extra}]"'
        ) from None


def decode(data: bytes, path: Path, reading: Reading) -> str:
    """The characters of a file's bytes, as ``reading`` says.

    Raises:
        DataError: the encoding is unknown, or, where errors are strict, a byte is no character.
    """
    encoding, skipped = _encoding(data, path, reading.encoding)
    text: str
    if reading.errors == "strict":
        if encoding == "utf-8" and (at := data.find(b"\0")) >= 0:
            raise _nul(f"{path}, line {data.count(bytes([10]), 0, at) + 1}", f"byte {at}")
        try:
            text = data[skipped:].decode(encoding)
        except UnicodeDecodeError as error:
            at = error.start + skipped
            line = data.count(b"\n", 0, at) + 1
            name = "UTF-8" if encoding == "utf-8" else encoding
            raise DataError(
                f"{path}, line {line}: byte 0x{data[at]:02X} at offset {at} is not {name}; save "
                "the file as UTF-8, name its encoding with data.encoding, or choose "
                "data.errors=replace or skip"
            ) from None
        except UnicodeError as error:
            raise DataError(f"{path}: not {encoding} ({error}); name its encoding") from None
    else:
        text = data[skipped:].decode(encoding, _how(reading))
    return mended(text, f"{path}", reading).replace("\r\n", "\n")


def mended(text: str, place: str, reading: Reading) -> str:
    """Text without NULs and halves of surrogate pairs, which escapes and encodings may bring.

    Raises:
        DataError: there is one, and errors are strict.
    """
    if "\0" not in text:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            pass
        else:
            return text
    instead = REPLACEMENT if reading.errors == "replace" else ""
    if reading.errors == "strict":
        at = text.find("\0")
        if at >= 0:
            line = text.count("\n", 0, at) + 1
            raise _nul(f"{place}, line {line}", f"character {at}")
        raise DataError(
            f"{place}: half of a surrogate pair is no character; remove it, or choose "
            "data.errors=replace or skip"
        )
    text = text.replace("\0", instead)
    return "".join(c if not 0xD800 <= ord(c) <= 0xDFFF else instead for c in text)


def _how(reading: Reading) -> str:
    return "replace" if reading.errors == "replace" else "ignore"


def _nul(place: str, at: str) -> DataError:
    return DataError(
        f"{place}: not a text file (NUL at {at}); if it is text, save it as UTF-8, name its "
        "encoding, or choose data.errors=replace or skip"
    )


def _encoding(data: bytes, path: Path, wanted: str) -> tuple[str, int]:
    """The codec, and how many bytes of a mark to leave out."""
    name = wanted if wanted == "detect" else _codec(wanted)
    for mark, marked in MARKS:
        if data.startswith(mark) and (wanted == "detect" or name == marked == "utf-8"):
            return marked, len(mark)
    if wanted != "detect":
        return name, 0
    try:
        data.decode("utf-8")
        return "utf-8", 0
    except UnicodeDecodeError:
        pass
    library = importlib.import_module("charset_normalizer")
    best = library.from_bytes(data[:DETECTED_FROM]).best()
    if best is None:
        raise DataError(f"{path}: its encoding cannot be told; name it with data.encoding")
    return str(best.encoding), 0


def _codec(wanted: str) -> str:
    """The name that an encoding goes by, whatever it was called."""
    try:
        found = codecs.lookup(wanted)
        if found._is_text_encoding and found.name != "undefined":
            return found.name
    except (LookupError, ValueError):
        pass
    raise DataError(
        f"data.encoding: no encoding of texts is called {wanted!r}; name one such as utf-8, "
        "latin-1, cp1252 or utf-16, or detect"
    )


def _json(text: str, path: Path, field: str) -> Iterator[tuple[str, str]]:
    if text.lstrip()[:1] == "[":
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: not JSON ({error}); mend the file") from None
        for number, value in enumerate(values, 1):
            place = f"{path}, record {number}"
            yield place, _field(value, place, field)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: not JSON ({error}); mend the line") from None
        yield place, _field(value, place, field)


def _field(value: Any, place: str, field: str) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, dict) or field not in value:
        keys = ", ".join(map(repr, list(value)[:6])) if isinstance(value, dict) else "no fields"
        raise DataError(f"{place}: no field '{field}' ({keys}); name one with data.field")
    if not isinstance(value[field], str):
        raise DataError(f"{place}: the field '{field}' is not a text; name another")
    return value[field]


def _csv(text: str, path: Path, field: str) -> Iterator[tuple[str, str]]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""))
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


def _parquet(data: bytes, path: Path, field: str) -> Iterator[tuple[str, str]]:
    library = _optional("pyarrow.parquet", "parquet", path)
    try:
        file = library.ParquetFile(io.BytesIO(data))
        names = file.schema_arrow.names
    except Exception as error:  # whatever pyarrow makes of a damaged file
        raise DataError(f"{path}: not a parquet file ({error}); copy it again") from None
    if field not in names:
        shown = ", ".join(map(repr, names[:6]))
        raise DataError(f"{path}: no column '{field}' ({shown}); name one with data.field")
    try:
        values = file.read(columns=[field]).column(0).to_pylist()
    except Exception as error:  # whatever pyarrow makes of a damaged page
        raise DataError(f"{path}: not a whole parquet file ({error}); copy it again") from None
    for number, value in enumerate(values, 1):
        if value is not None and not isinstance(value, str):
            raise DataError(f"{path}, row {number}: '{field}' is not a text; name another")
        yield f"{path}, row {number}", value or ""
