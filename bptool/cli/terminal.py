"""The one place that every printed string passes: nothing in it is obeyed by a terminal.

What is printed may come from a stranger's run, from a file's name, or from a model, which writes
whatever it has learnt. So control characters are shown as what they are (``\\x1b``), and so are the
signs that turn the direction of a text around. Line ends and tabs stay. ``console.py`` does the
same for all that rich draws. In JSON such a character becomes JSON's own escape, so that the value
is the same. Only :func:`exact` prints a text as it is, and only where no terminal reads it.
"""

from __future__ import annotations

import codecs
import json as json_module
import math
import re
import sys
from typing import IO, Any

import typer

LONGEST_LINE = 2000
"""Characters of a line of a message; the middle of a longer one is left out."""
_TOLERANT = "bptool-tolerant"
_HOSTILE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """``text`` with its control characters written out, but for line ends and tabs."""
    return _HOSTILE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file's name that is not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def shortened(text: str) -> str:
    """``text`` with the middle of each line left out that is longer than :data:`LONGEST_LINE`."""
    return "\n".join(
        line
        if len(line) <= LONGEST_LINE
        else f"{line[: 2 * LONGEST_LINE // 3]} ... {line[-LONGEST_LINE // 3 :]}"
        for line in text.split("\n")
    )


def write(text: object, file: IO[str] | None = None) -> None:
    """Print ``text`` at once, without a line end; on the standard output if no file is given."""
    stream = sys.stdout if file is None else file
    stream.write(visible(str(text)))
    stream.flush()


def line(text: object = "", *, err: bool = False) -> None:
    """Print ``text`` and a line end on the standard output, or with ``err`` on standard error."""
    write(f"{text}\n", sys.stderr if err else None)


def json(value: Any, *, indent: int | None = None, file: IO[str] | None = None) -> None:
    """Print ``value`` as JSON, and a line end."""
    write(json_text(value, indent) + "\n", file)


def json_text(value: Any, indent: int | None = None) -> str:
    """``value`` as JSON, with ``\\uXXXX`` for each character that :func:`visible` would change, and
    null for NaN and infinity, which JSON does not have."""
    text = json_module.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)
    return _HOSTILE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def exact(text: str) -> None:
    """Print ``text`` as it is where a program or a file reads it; made visible on a terminal.

    For what is asked for by itself: the text that a model writes, the path of a file.
    """
    if sys.stdout.isatty():
        write(text)
    else:
        sys.stdout.write(text)
        sys.stdout.flush()


def tolerate_narrow_encodings() -> None:
    """Print ``?`` for what the encoding of an output lacks, in place of failing; bytes of a file's
    name that are not UTF-8 come out as they are where :func:`exact` prints them."""
    codecs.register_error(_TOLERANT, _tolerate)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=_TOLERANT)


def _tolerate(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = ord(error.object[error.start])
    is_byte = 0xDC80 <= character <= 0xDCFF
    return bytes([character - 0xDC00]) if is_byte else "?", error.start + 1


def mark(word: str, colour: str) -> None:
    """Print a word of ours on standard error, in colour on a terminal."""
    typer.secho(word, fg=colour, bold=True, err=True, nl=False)
