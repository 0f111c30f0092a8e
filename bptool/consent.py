"""What only the user can decide, and only on the command line of this very command.

Nothing that a run or a configuration says can give consent. The decisions are those of a process,
as a command line is; :func:`forget` begins the next one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class _Decisions:
    """Attributes:
    accepts_changes: files of a run that were changed since it wrote them are taken as they are.
    """

    accepts_changes: bool = False


_given = _Decisions()


def forget() -> None:
    """Take back all that was decided."""
    _given.__init__()  # type: ignore[misc]


def accept_changes() -> None:
    """Decide that changed files of the runs that are opened are taken as they are."""
    _given.accepts_changes = True


def accepts_changes() -> bool:
    """Whether ``--accept-changes`` was given."""
    return _given.accepts_changes
