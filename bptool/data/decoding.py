"""From the bytes of a file to characters, chunk by chunk, with the place of what is wrong.

Line ends: CRLF becomes LF, so that a file checked out on Windows gives the same tokens as
elsewhere. Nothing else changes; a byte order mark at the start is dropped.
"""

from __future__ import annotations

import codecs
import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

from bptool.config.data_section import DataConfig
from bptool.data.record_report import Fault
from bptool.data.streams import read_chunks
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
COMMON = (
    *("cp1252", "latin_1", "cp1250", "cp1251", "koi8_r", "cp932", "shift_jis", "euc_jp", "gb18030"),
    *("gbk", "big5", "euc_kr", "cp949"),
)
"""Encodings that are named rather than others which give the same characters."""
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


def reading_of(config: DataConfig) -> Reading:
    """How the files of a ``data`` section are read."""
    return Reading(config.encoding, config.errors, config.field)


class Encoding(NamedTuple):
    """A codec's name, and how many bytes of a mark stand before the text."""

    name: str
    skipped: int


def characters_of(
    path: Path, reading: Reading, encoding: Encoding | None = None, escaped: bool = False
) -> Iterator[str]:
    """The characters of a file; see :func:`encoding_of` and :func:`decode`."""
    chunks = partial(read_chunks, path)
    encoding = encoding or encoding_of(chunks, path, reading.encoding)
    return decode(chunks(), encoding, path, reading, escaped)


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
        if start.startswith(mark):  # no UTF-8 begins with the mark of another
            return Encoding(marked, len(mark))
    if wanted != "detect":
        return Encoding(name, 0)
    found = guessed(chunks)
    if not found:
        raise DataError(f"{path}: its encoding cannot be told; name it with data.encoding")
    return Encoding(found, 0)


def guessed(chunks: Chunks) -> str:
    """The encoding that the bytes of a file look like; nothing where that cannot be told."""
    start = next(chunks(), b"")[:DETECTED_FROM]
    if b"\0" in start:
        return _wide(start)
    odd = _not_utf8(chunks())
    if odd is None or _damaged(odd):
        return "utf-8"
    best = importlib.import_module("charset_normalizer").from_bytes(odd).best()
    if best is None:
        return ""
    same = [best.encoding, *best.could_be_from_charset]
    return str(next((name for name in COMMON if name in same), best.encoding))


def _damaged(odd: bytes) -> bool:
    """Whether bytes are UTF-8 but for a few: most of what is not ASCII is right."""
    text = odd.decode("utf-8", "replace")
    n_bad = text.count(REPLACEMENT)
    return sum(not c.isascii() for c in text) > 5 * n_bad


def _wide(start: bytes) -> str:
    """UTF-16 or UTF-32 without a byte order mark, by which of every four bytes are 0."""
    nuls = [start[i::4].count(0) for i in range(4)]
    if sum(nuls) < 2:
        return ""
    half = len(start) / 8
    if nuls[2] > half and nuls[3] > half:
        name = "utf-32-le"
    elif nuls[0] > half and nuls[1] > half:
        name = "utf-32-be"
    else:
        odd = (nuls[1] + nuls[3]) / sum(nuls)
        name = "utf-16-le" if odd > 0.9 else "utf-16-be" if odd < 0.1 else ""
    try:
        text = codecs.getincrementaldecoder(name)().decode(start) if name else "\0"
    except UnicodeDecodeError:
        return ""
    # A text of ASCII with some NULs in it becomes characters of which both bytes are ASCII.
    odd = sum(_is_two_of_ascii(ord(c)) for c in text)
    return "" if "\0" in text or odd > len(text) / 2 else name


def _is_two_of_ascii(code: int) -> bool:
    kana = 0x3040 <= code < 0x3100
    return not kana and 0x20 <= code >> 8 < 0x7F and 0x20 <= code & 0xFF < 0x7F


def decode(
    chunks: Iterable[bytes],
    encoding: Encoding,
    path: Path,
    reading: Reading,
    escaped: bool = False,
) -> Iterator[str]:
    """The characters of a file's chunks, without NULs and with LF as line end.

    Args:
        escaped: where errors are strict, let NULs be, and every byte that is no character become
            U+DC80 to U+DCFF, so that the caller can say which of its records are broken.

    Raises:
        DataError: a byte is no character, or NUL, and errors are strict; names the line (from 1)
            and the byte's offset in the file (from 0).
    """
    escaped = escaped and reading.errors == "strict"
    pieces = _characters(chunks, encoding, path, reading, escaped)
    if not escaped and (encoding.name != "utf-8" or reading.errors != "strict"):
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


def fault_in(text: str) -> Fault | None:
    """The first NUL, or half of a surrogate pair, which escapes may bring into a text."""
    at = text.find("\0")
    if at >= 0:
        return Fault(f"NUL at character {at + 1} is no text", "with NUL")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return half_of_a_pair(error.start)
    return None


def half_of_a_pair(at: int) -> Fault:
    """That half of a surrogate pair stands at such an index."""
    reason = f"half of a surrogate pair at character {at + 1} is no character"
    return Fault(reason, "with half of a surrogate pair")


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
    chunks: Iterable[bytes], encoding: Encoding, path: Path, reading: Reading, escaped: bool
) -> Iterator[str]:
    strict = reading.errors == "strict" and not escaped
    how = {"strict": "strict", "replace": "replace", "skip": "ignore"}[reading.errors]
    how = "surrogateescape" if escaped else how
    name, at = encoding
    decoder = codecs.getincrementaldecoder(name)(errors=how)
    lines, skipped = 0, at
    for chunk in chain(chunks, [b""]):
        final = not chunk
        if skipped:
            chunk, skipped = chunk[skipped:], 0
        if strict and name == "utf-8" and (nul := chunk.find(b"\0")) >= 0:
            line = lines + chunk.count(b"\n", 0, nul) + 1
            raise _nul(f"{path}, line {line}", f"byte {at + nul}", partial(read_chunks, path))
        try:
            text = decoder.decode(chunk, final)
        except UnicodeDecodeError as error:
            pending = max(0, len(error.object) - len(chunk))
            before = lines - error.object.count(b"\n", 0, pending)
            line = before + error.object.count(b"\n", 0, error.start) + 1
            shown = "UTF-8" if name == "utf-8" else name
            raise DataError(
                f"{path}, line {line}: byte 0x{error.object[error.start]:02X} at offset "
                f"{at - pending + error.start} is not {shown}; {advice(partial(read_chunks, path))}"
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


def advice(chunks: Chunks) -> str:
    """What to do about bytes of a file that are no characters."""
    name = guessed(chunks)
    if name and name != "utf-8":
        return f"the file looks like {name}: read it with data.encoding={name}"
    return (
        "save the file as UTF-8, name its encoding with data.encoding, or choose "
        "data.errors=replace or skip"
    )


def _nul(place: str, at: str, chunks: Chunks | None = None) -> DataError:
    name = guessed(chunks) if chunks is not None else ""
    if name and name != "utf-8":
        return DataError(
            f"{place}: NUL at {at} is not UTF-8; the file looks like {name}: read it with "
            f"data.encoding={name}"
        )
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
