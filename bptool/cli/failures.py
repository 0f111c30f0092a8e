"""From an exception to what the user reads and the exit code.

| what happened | on stderr | exit code |
|---|---|---|
| a ``UserError``, wrong usage, a file that cannot be read or written | one line | 2 |
| any other exception | one line, and how to see the traceback | 1 |
| a run that ended and was never below guessing | as at the end of any run | 3 |
| Ctrl-C | ``interrupted`` | 130 |
| SIGTERM | ``terminated`` | 143 |
| SIGHUP: the terminal was closed, the connection lost | ``terminated`` | 129 |
| one of the three to what saves its work first | how to continue | 130, 143, 129 |
| ``--time-limit`` has passed, and the work is saved | how to go on | 124 |
| the reader of a pipe went away | nothing | 1 |
"""

from __future__ import annotations

import errno
import os
import sys

import typer

from bptool.cli import terminal
from bptool.errors import BptoolError

NOTHING_LEARNED = 3
INTERRUPTED = 130
BROKEN_PIPE = 1
USAGE_ERROR: type[BaseException] = typer.BadParameter.__mro__[1]
"""The class of wrong usage, whether Typer brings its own copy of click or not."""


class Terminated(BaseException):
    """SIGTERM or SIGHUP; no ``KeyboardInterrupt``, whose exit code Typer settles itself."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


class Stopped(Exception):
    """A command ends that has saved its work and said what there is to say."""

    def __init__(self, exit_code: int = 130) -> None:
        super().__init__()
        self.exit_code = exit_code


REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EIO: "the disk failed (input/output error); look after it or choose another folder",
    errno.EACCES: "permission denied; choose a place you may read and write",
    errno.EPERM: "not permitted; choose a place you may read and write",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOENT: "there is no such file or folder",
    errno.ENOTDIR: "a part of this path is a file, not a folder",
    errno.EISDIR: "this is a folder; name a file",
    errno.ENAMETOOLONG: "this name is too long",
    errno.EMFILE: "no more files can be opened; end what holds them, or raise `ulimit -n`",
    errno.ENFILE: "no more files can be opened on this system; end what holds them",
    errno.EFBIG: "the file would grow larger than the system allows",
}
if hasattr(errno, "EDQUOT"):
    REMEDIES[errno.EDQUOT] = "your disk quota is used up; free some space"


def say(message: str, kind: str = "error") -> None:
    """Print ``error: message`` on stderr, the first word in red on a terminal."""
    terminal.mark(f"{kind}: ", typer.colors.YELLOW if kind == "warning" else typer.colors.RED)
    terminal.line(terminal.shortened(message), err=True)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _usage(error: BaseException) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()  # type: ignore[attr-defined]
        return 2
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "bptool"
    text = _one_line(error.format_message()).rstrip(".")  # type: ignore[attr-defined]
    details = getattr(error.__cause__, "errors", None)  # pydantic keeps the value that was found
    if details is not None:
        text += f", found '{details()[0]['input']}'"
    say(f"{text[:1].lower()}{text[1:]}; see '{path} --help'")
    return 2


def report(error: BaseException) -> int:
    """Print what ``error`` means for the user and return the exit code."""
    if isinstance(error, BptoolError):
        say(str(error).rstrip("\n"))
        return error.exit_code
    if isinstance(error, USAGE_ERROR):
        return _usage(error)
    if isinstance(error, Stopped):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        terminal.line("interrupted", err=True)
        return INTERRUPTED
    if isinstance(error, Terminated):
        terminal.line("terminated", err=True)
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        terminal.silence(sys.stdout)
        return BROKEN_PIPE
    if isinstance(error, OSError) and error.errno in REMEDIES:
        place = f"{error.filename}: " if error.filename else ""
        say(f"{place}{REMEDIES[error.errno]}")
        return 2
    if isinstance(error, MemoryError):
        say("not enough memory; a smaller batch_size, context or model would do")
        return 2
    if _no_file_left():  # which Python meets as a module that is missing, say
        say(REMEDIES[errno.EMFILE])
        return 2
    text = _one_line(f"{type(error).__name__}: {error}")
    say(f"{text}; run again with --debug for the traceback", kind="unexpected error")
    return 1


def _no_file_left() -> bool:
    """Whether the process may open no more files."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return False
