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

from bptool.data import documents
from bptool.data.decoding import Encoding, Reading, decode, encoding_of, mended
from bptool.data.streams import COMPRESSED, read_chunks
from bptool.data.text import resolve
from bptool.errors import DataError

SUFFIXES = (".txt", ".md", ".jsonl", ".json", ".csv", ".parquet")
RECORDS = (".jsonl", ".json", ".csv", ".parquet")
PATTERN = frozenset("*?[")


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
        self.paths = [path for name in names for path in expand(name)]
        self._encodings: dict[Path, Encoding] = {}

    def __iter__(self) -> Iterator[Source]:
        for path in self.paths:
            if _suffix(path) in RECORDS:
                yield from self._records(path)
            else:
                yield Source(str(path), partial(self._plain, path), n_bytes=self._guess(path))

    def _characters(self, path: Path) -> Iterator[str]:
        chunks = partial(read_chunks, path)
        if path not in self._encodings:
            self._encodings[path] = encoding_of(chunks, path, self.reading.encoding)
        return decode(chunks(), self._encodings[path], path, self.reading)

    def _plain(self, path: Path) -> Iterator[str]:
        empty = True
        for piece in self._characters(path):
            empty = False
            yield piece
        if empty:
            raise DataError(f"{path}: the file is empty; name a file with text in it")

    def _guess(self, path: Path) -> int:
        """Right for plain UTF-8 without a mark and with line ends of LF."""
        if path.suffix.lower() in COMPRESSED:
            return 0
        try:
            return path.stat().st_size
        except (OSError, ValueError):
            return 0  # said when it is read

    def _records(self, path: Path) -> Iterator[Source]:
        kind, field = _suffix(path), self.reading.field
        if kind == ".parquet":
            found = documents.from_parquet(path, field)
        elif kind == ".csv":
            found = documents.from_csv(self._characters(path), path, field)
        else:
            found = documents.from_json(self._characters(path), path, field)
        n = 0
        for place, raw in found:
            text = mended(raw, place, self.reading)
            if text.strip():
                n += 1
                yield Source(place, partial(_whole, text), True)
        if n == 0:
            raise DataError(f"{path}: no record has text in its field '{field}'")


def read_sources(names: Sequence[str | Path], reading: Reading | None = None) -> list[Source]:
    """The texts of ``names``, in order; see :class:`Texts`."""
    return list(Texts(names, reading))


def _whole(text: str) -> tuple[str]:
    return (text,)


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
