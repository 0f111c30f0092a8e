"""From the bytes of a file to characters, chunk by chunk, with the place of what is wrong.

Line ends: CRLF becomes LF, so that a file checked out on Windows gives the same tokens as
elsewhere. Nothing else changes; a byte order mark at the start is dropped.
"""

from __future__ import annotations

import codecs
import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

from bptool.errors import DataError

MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
"""Byte order marks, the longer ones first, and the encoding that each stands for."""
DETECTED_FROM = 1 << 20
"""Bytes that an encoding is guessed from, where they are not UTF-8."""
REPLACEMENT = "�"
NOT_OF_TEXTS = frozenset({"undefined", "idna", "punycode"})

Errors = Literal["strict", "replace", "skip"]
Chunks = Callable[[], Iterator[bytes]]
"""Reads a file from its start each time it is called."""


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


class Encoding(NamedTuple):
    """A codec's name, and how many bytes of a mark stand before the text."""

    name: str
    skipped: int


def encoding_of(chunks: Chunks, path: Path, wanted: str) -> Encoding:
    """How a file is encoded, as ``wanted`` says, or found out where that is ``detect``.

    Raises:
        DataError: there is no such encoding, or it cannot be told.
    """
    name = wanted if wanted == "detect" else _codec(wanted)
    if name not in ("detect", "utf-8"):
        return Encoding(name, 0)
    start = next(chunks(), b"")
    for mark, marked in MARKS:
        if start.startswith(mark) and (wanted == "detect" or marked == "utf-8"):
            return Encoding(marked, len(mark))
    if wanted != "detect":
        return Encoding(name, 0)
    odd = _not_utf8(chunks())
    if odd is None:
        return Encoding("utf-8", 0)
    best = importlib.import_module("charset_normalizer").from_bytes(odd).best()
    if best is None:
        raise DataError(f"{path}: its encoding cannot be told; name it with data.encoding")
    return Encoding(str(best.encoding), 0)


def decode(
    chunks: Iterable[bytes], encoding: Encoding, path: Path, reading: Reading
) -> Iterator[str]:
    """The characters of a file's chunks, without NULs and with LF as line end.

    Raises:
        DataError: a byte is no character, or NUL, and errors are strict; names the line (from 1)
            and the byte's offset in the file (from 0).
    """
    pieces = _characters(chunks, encoding, path, reading)
    if encoding.name != "utf-8" or reading.errors != "strict":
        pieces = _mended(pieces, path, reading)
    held = ""
    for piece in pieces:
        if held:
            piece, held = held + piece, ""
        if piece.endswith("\r"):
            piece, held = piece[:-1], "\r"
        if piece:
            yield piece.replace("\r\n", "\n")
    if held:
        yield held


def mended(text: str, place: str, reading: Reading, lines: int = 0, characters: int = 0) -> str:
    """Text without NULs and halves of surrogate pairs, which escapes and encodings may bring.

    Args:
        text: what to look through. place: of the whole that it is part of.
        reading: says what becomes of them.
        lines, characters: how many line ends and characters of the whole stand before ``text``.

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
            line = lines + text.count("\n", 0, at) + 1
            raise _nul(f"{place}, line {line}", f"character {characters + at}")
        raise DataError(
            f"{place}: half of a surrogate pair is no character; remove it, or choose "
            "data.errors=replace or skip"
        )
    text = text.replace("\0", instead)
    return "".join(c if not 0xD800 <= ord(c) <= 0xDFFF else instead for c in text)


def _characters(
    chunks: Iterable[bytes], encoding: Encoding, path: Path, reading: Reading
) -> Iterator[str]:
    strict = reading.errors == "strict"
    how = {"strict": "strict", "replace": "replace", "skip": "ignore"}[reading.errors]
    name, at = encoding
    decoder = codecs.getincrementaldecoder(name)(errors=how)
    lines, skipped = 0, at
    for chunk in chain(chunks, [b""]):
        final = not chunk
        if skipped:
            chunk, skipped = chunk[skipped:], 0
        if strict and name == "utf-8" and (nul := chunk.find(b"\0")) >= 0:
            line = lines + chunk.count(b"\n", 0, nul) + 1
            raise _nul(f"{path}, line {line}", f"byte {at + nul}")
        try:
            text = decoder.decode(chunk, final)
        except UnicodeDecodeError as error:
            pending = max(0, len(error.object) - len(chunk))
            before = lines - error.object.count(b"\n", 0, pending)
            line = before + error.object.count(b"\n", 0, error.start) + 1
            shown = "UTF-8" if name == "utf-8" else name
            raise DataError(
                f"{path}, line {line}: byte 0x{error.object[error.start]:02X} at offset "
                f"{at - pending + error.start} is not {shown}; save the file as UTF-8, name its "
                "encoding with data.encoding, or choose data.errors=replace or skip"
            ) from None
        except UnicodeError as error:
            raise DataError(f"{path}: not {name} ({error}); name its encoding") from None
        if strict:
            lines += chunk.count(b"\n")
        at += len(chunk)
        if text:
            yield text


def _mended(pieces: Iterable[str], path: Path, reading: Reading) -> Iterator[str]:
    lines = characters = 0
    for piece in pieces:
        yield mended(piece, str(path), reading, lines, characters)
        if reading.errors == "strict":
            lines += piece.count("\n")
            characters += len(piece)


def _nul(place: str, at: str) -> DataError:
    return DataError(
        f"{place}: not a text file (NUL at {at}); if it is text, save it as UTF-8, name its "
        "encoding, or choose data.errors=replace or skip"
    )


def _not_utf8(chunks: Iterator[bytes]) -> bytes | None:
    """Bytes to guess the encoding from, or None where all of them are UTF-8.

    They are the first ones, or, where these are UTF-8, the ones around the first that is not.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    start = b""
    for chunk in chain(chunks, [b""]):
        if len(start) < DETECTED_FROM:
            start = (start + chunk)[:DETECTED_FROM]
            odd = start
        else:
            odd = chunk[chunk.find(b"\n") + 1 :]
        try:
            decoder.decode(chunk, not chunk)
        except UnicodeDecodeError:
            return odd or start
    return None


def _codec(wanted: str) -> str:
    """The name that an encoding goes by, whatever it was called."""
    try:
        found = codecs.lookup(wanted)
        if found._is_text_encoding and found.name not in NOT_OF_TEXTS:
            return found.name
    except (LookupError, ValueError):
        pass
    raise DataError(
        f"data.encoding: no encoding of texts is called {wanted!r}; name one such as utf-8, "
        "latin-1, cp1252 or utf-16, or detect"
    )
