"""The ``bptool`` command: its options, and where every error ends."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, TextIO

import typer

from bptool import __version__, consent
from bptool.cli import terminal
from bptool.cli.commands import CONTEXT_SETTINGS, LazyGroup
from bptool.cli.failures import INTERRUPTED, Terminated, report, say
from bptool.cli.signals import terminating
from bptool.errors import BptoolWarning

app = typer.Typer(
    cls=LazyGroup,
    context_settings=CONTEXT_SETTINGS,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        terminal.line(f"bptool {__version__}")
        raise typer.Exit


@app.callback()
def bptool(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", help="Show the traceback of an error. May stand anywhere on the line."
        ),
    ] = False,
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes",
            help="Take files and programs of a run as they are now, though they were changed since "
            "it wrote them, and record that in the run. May stand anywhere on the line.",
        ),
    ] = False,
) -> None:
    """Train language models from text on a CPU, with backpropagation written out by hand.

    Start with: bptool train book.txt
    """


def _without(flag: str, arguments: Sequence[str]) -> tuple[list[str], bool]:
    """The arguments without ``flag``, and whether it stood before a ``--``."""
    arguments = list(arguments)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [argument for argument in arguments[:end] if argument != flag]
    return options + arguments[end:], len(options) < end


@contextmanager
def _own_warnings_in_one_line() -> Iterator[None]:
    """Inside the block a BptoolWarning is a line on stderr, whatever else is shown or not."""
    with warnings.catch_warnings():

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, BptoolWarning):
                say(str(message), kind="warning")
            else:
                text = warnings.formatwarning(message, category, filename, lineno, line)
                terminal.write(text, file or sys.stderr)

        warnings.showwarning = show
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``bptool`` with ``arguments`` (default: the process's own); returns the exit code."""
    terminal.open_closed_streams()
    terminal.tolerate_narrow_encodings()
    with terminal.outliving_errors():
        return _run(sys.argv[1:] if arguments is None else arguments)


def _run(arguments: Sequence[str]) -> int:
    arguments, debug = _without("--debug", arguments)
    arguments, accepts = _without("--accept-changes", arguments)
    consent.forget()
    if accepts:
        consent.accept_changes()
    try:
        with terminating(), _own_warnings_in_one_line():
            code = app(arguments or ["--help"], prog_name="bptool", standalone_mode=False)
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt, Terminated) as error:
        if debug:
            terminal.line(traceback.format_exc().rstrip("\n"), err=True)
        return report(error)
    if code == INTERRUPTED:
        return report(KeyboardInterrupt())
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
