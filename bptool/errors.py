"""The exception tree.

``UserError`` and its subclasses are mistakes a user can mend: the command line prints
their message as one line and exits with code 2. Anything else is a defect of ours.
A message names the place, says what was found there, and what would do instead.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BptoolError(Exception):
    """Base of every exception that bptool raises on purpose."""

    exit_code = 1


class UserError(BptoolError):
    """Something the user asked for cannot be done as asked; the message says what would do."""

    exit_code = 2


class ConfigError(UserError):
    """A setting is wrong: in a file, on the command line, or between two settings."""


class DataError(UserError):
    """A text, a token file or a tokenizer cannot be used."""


class RunError(UserError):
    """A run folder or a checkpoint cannot be used."""


class DamagedError(RunError):
    """A file of a run is missing, or not as it was written."""


class DivergedError(BptoolError):
    """Training met numbers that are not finite and cannot go on."""


class BptoolWarning(UserWarning):
    """Something that the user should know and need not mend; the command line prints one line."""


def did_you_mean(found: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` or a list of what is known, to end an error message."""
    names = sorted(known)
    near = difflib.get_close_matches(found, names, n=1, cutoff=0.5)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {', '.join(names)}" if names else ""
