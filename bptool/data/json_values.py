"""The values of JSON text, one at a time with their places, whatever way they are laid out.

A value a line (JSON Lines), values over several lines one after the other, or one list. A broken
line is one broken value and the next line is read; a list that is broken ends there.

A value of over :data:`MOST_CHARACTERS` characters is refused, so that a file without line ends, or
a few bytes that decompress without an end, cost no more memory than that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from bptool.data.record_report import Fault
from bptool.errors import DataError

MOST_CHARACTERS = 1 << 26
_NEAR_THE_END = 16
"""Characters: an error of JSON this near to the end of what was read may be for want of more."""
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]')
_SPACE = " \t\r\n"
_DECODER = json.JSONDecoder()


class Placed(NamedTuple):
    """A value, where it stands (``file:line`` or the like), and what spells it."""

    place: str
    value: Any
    raw: str


def json_values(slices: Iterable[str], path: Path) -> Iterator[Placed]:
    """The values of JSON, of which an :class:`Fault` stands for a broken one.

    Raises:
        DataError: a value is too long, or a list is broken.
    """
    slices = iter(slices)
    start = ""
    for piece in slices:
        start += piece
        if start.strip(_SPACE) or len(start) > MOST_CHARACTERS:
            break
    rest = chain([start], slices)
    return _list(rest, path) if start.lstrip(_SPACE)[:1] == "[" else _lines(rest, path)


def text_lines(slices: Iterable[str], path: Path) -> Iterator[tuple[int, str]]:
    """Lines without their ends, numbered from 1."""
    number, held = 0, ""
    for piece in slices:
        *whole, held = (held + piece).split("\n")
        for line in whole:
            number += 1
            yield number, line
        if len(held) > MOST_CHARACTERS:
            raise _too_long(path, number + 1, "a line")
    if held:
        yield number + 1, held


def _lines(slices: Iterable[str], path: Path) -> Iterator[Placed]:
    """A value a line, or several lines from the one where it begins."""
    first, held, depth, length = 0, list[str](), 0, 0
    for number, line in text_lines(slices, path):
        # A line that is a whole value by itself ends one that was cut short before it.
        whole = None if held and line[:1] not in ("{", "[") else _whole(line, f"{path}:{number}")
        if held and whole is None:
            held.append(line)
            depth, length = depth + _depth(line), length + len(line) + 1
            if length > MOST_CHARACTERS:
                raise _too_long(path, first, "a record")
            if depth > 0:
                continue
        if held:
            yield from _values("\n".join(held), f"{path}:{first}")
            held = []
            if whole is None:
                continue
        if whole is not None:
            yield whole
        elif line.strip(_SPACE):
            depth = _depth(line) if _lacks_its_rest(line) else 0
            if depth > 0:
                first, held, length = number, [line], len(line)
            else:
                yield from _values(line, f"{path}:{number}")
    if held:
        yield from _values("\n".join(held), f"{path}:{first}")


def _whole(line: str, place: str) -> Placed | None:
    """The one value of a line; None where it is anything else."""
    try:
        return Placed(place, _DECODER.decode(line), line)
    except (ValueError, RecursionError):
        return None


def _lacks_its_rest(line: str) -> bool:
    """Whether a line begins an object or a list and is right as far as it goes."""
    if line.lstrip(_SPACE)[0] not in "{[":
        return False
    at = 0
    try:
        while (at := _past_space(line, at)) < len(line):
            _, at = _DECODER.raw_decode(line, at)
    except json.JSONDecodeError as error:
        return error.pos >= len(line.rstrip(_SPACE))
    except (ValueError, RecursionError):
        pass
    return False


def _values(text: str, place: str) -> Iterator[Placed]:
    """The values of text in which they stand one after the other; or that it is broken."""
    try:
        yield Placed(place, _DECODER.decode(text), text)
        return
    except json.JSONDecodeError as error:
        where = f"column {error.colno}"
        if error.lineno > 1:
            where = f"line {error.lineno} of it, {where}"
        why = Fault(f"not JSON: {error.msg} at {where}", "not JSON")
    except (ValueError, RecursionError) as error:
        why = Fault(f"not JSON: {error}", "not JSON")
    found, at = [], 0
    try:
        while (at := _past_space(text, at)) < len(text):
            value, end = _DECODER.raw_decode(text, at)
            if not isinstance(value, dict):
                raise ValueError("values of other kinds need a line each")
            found.append(Placed(place, value, text[at:end]))
            at = end
    except (ValueError, RecursionError):
        found = [Placed(place, why, text)]
    yield from found


def _depth(line: str) -> int:
    """How many more objects and lists begin in a line than end."""
    signs = [found[0] for found in _BRACKETS.finditer(line)]
    return sum((sign in "{[") - (sign in "}]") for sign in signs if len(sign) == 1)


def _list(slices: Iterator[str], path: Path) -> Iterator[Placed]:
    """The values of a JSON list, as they come."""
    text, number, wanted = next(slices), 0, "value or end"
    at = text.index("[") + 1
    line = 1 + text.count("\n", 0, at)  # of text[at]
    ended = False
    while True:
        before, at = at, _past_space(text, at)
        line += text.count("\n", before, at)
        place = f"{path}, record {number + 1}" + (f" (line {line})" if line > 1 else "")
        if wanted != "nothing" and at < len(text):
            if text[at] == "]" and wanted != "value":
                wanted, at = "nothing", at + 1
                continue
            if wanted == "comma or end":
                if text[at] != ",":
                    raise _not_json(place, "expecting ',' or ']'")
                wanted, at = "value", at + 1
                continue
            try:
                value, end = _DECODER.raw_decode(text, at)
                if end == len(text) and not ended:  # a number may go on
                    raise json.JSONDecodeError("", text, end)
            except json.JSONDecodeError as error:
                unfinished = error.msg.startswith("Unterminated string")
                near = unfinished or error.pos >= len(text) - _NEAR_THE_END
                if ended or not near or len(text) - at > MOST_CHARACTERS:
                    raise _not_json(place, error.msg or "too long") from None
            except (ValueError, RecursionError) as error:
                raise _not_json(place, str(error)) from None
            else:
                number += 1
                yield Placed(place, value, text[at:end])
                line += text.count("\n", at, end)
                wanted, at = "comma or end", end
                continue
        elif at < len(text):
            raise _not_json(place, "there is more after the end of the list")
        if ended:
            if wanted != "nothing":
                raise _not_json(place, "the list does not end")
            return
        piece = next(slices, None)
        ended = piece is None
        text, at = text[at:] + (piece or ""), 0


def _past_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _not_json(place: str, why: str) -> DataError:
    return DataError(f"{place}: not JSON ({why}); mend the file")


def _too_long(path: Path, number: int, what: str) -> DataError:
    return DataError(
        f"{path}:{number}: {what} of over {MOST_CHARACTERS:,} characters; a record has to be "
        "shorter"
    )
