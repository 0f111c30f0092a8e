"""The one place that every printed string passes: nothing in it is obeyed by a terminal.

What is printed may come from a stranger's run, from a file's name, or from a model, which writes
whatever it has learnt. So control characters are shown as what they are (``\\x1b``), and so are the
signs that turn the direction of a text around. Line ends and tabs stay. ``console.py`` does the
same for all that rich draws. In JSON such a character becomes JSON's own escape, so that the value
is the same. Only :func:`exact` prints a text as it is, and only where no terminal reads it.
"""

from __future__ import annotations

import codecs
import contextlib
import json as json_module
import math
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

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


class Losses:
    """The standard streams that were lost while a command worked, and why."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, name: str, reason: OSError) -> None:
        """Remember that a stream was lost just now."""
        moment = time.strftime("%Y-%m-%d %H:%M:%S")
        why = reason.strerror or type(reason).__name__
        self._lines.append(f"{moment} {name} was lost ({why}); work continues without it\n")

    def log(self, folder: Path) -> None:
        """Append what was lost since the last call to ``folder/log.txt``, if the folder exists."""
        if self._lines and folder.is_dir():
            with (
                contextlib.suppress(OSError),  # a log that cannot be written must not end the work
                (folder / "log.txt").open("a", encoding="utf-8", newline="\n") as file,
            ):
                file.writelines(self._lines)
            self._lines.clear()


class _Outliving:
    """A standard stream without which work continues; what is written after its loss is dropped."""

    def __init__(self, stream: IO[str], name: str, losses: Losses) -> None:
        self._stream, self._name, self._losses = stream, name, losses

    def write(self, text: str) -> int:
        """Write ``text``, if somebody still reads it."""
        with self._continuing():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand on what was written, if somebody still reads it."""
        with self._continuing():
            self._stream.flush()

    @contextlib.contextmanager
    def _continuing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._losses.add(self._name, error)
            silence(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def outliving_output() -> Iterator[Losses]:
    """Inside the block a closed pipe, a lost terminal or a full disk behind the standard output or
    standard error ends nothing."""
    losses, before = Losses(), (sys.stdout, sys.stderr)
    sys.stdout = cast(Any, _Outliving(sys.stdout, "standard output", losses))
    sys.stderr = cast(Any, _Outliving(sys.stderr, "standard error", losses))
    try:
        yield losses
        sys.stdout.flush()
    finally:
        sys.stdout, sys.stderr = before


@contextlib.contextmanager
def outliving_errors() -> Iterator[None]:
    """Inside the block a message that nobody can read any more changes no exit code."""
    before = sys.stderr
    sys.stderr = cast(Any, _Outliving(sys.stderr, "standard error", Losses()))
    try:
        yield
    finally:
        sys.stderr = before


def silence(stream: IO[str]) -> None:
    """Send what is still buffered for a reader that went away nowhere, so exit is quiet too."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


def open_closed_streams() -> None:
    """Give a process that was started without a standard output or standard error one that drops
    what is written (``>&-`` in a shell)."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
