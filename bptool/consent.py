"""What only the user can decide, and only on the command line of this very command.

A program of the user's runs when this command line names it, and then it is the bytes that were
read when it was named that run. Nothing that a run or a configuration says can give consent. The
decisions are those of a process, as a command line is; :func:`forget` begins the next one.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

LASTING = ("--plugin", "--reward")
"""Options that a run which goes on needs again."""


class Program(NamedTuple):
    """A program that was named."""

    option: str
    """That named it: ``--plugin``, ``--reward`` or ``--judge``."""
    given: str
    """The name, as it was given."""
    path: Path | None
    """Of its file, without links; None for a module that Python finds."""
    sha256: str
    source: bytes = b""
    """What runs, of a file."""

    @property
    def name(self) -> str:
        """As a run keeps it: where the file is, or the module's dotted name."""
        return self.given if self.path is None else str(self.path)


@dataclass
class _Decisions:
    programs: list[Program] = field(default_factory=list)
    accepts_changes: bool = False


_given = _Decisions()


def forget() -> None:
    """Take back all that was decided."""
    _given.programs, _given.accepts_changes = [], False


def allow(program: Program) -> None:
    """Decide that ``program`` may run, in place of what was named so before."""
    others = [p for p in _given.programs if (p.option, p.name) != (program.option, program.name)]
    _given.programs = [*others, program]


def programs(options: Sequence[str] = LASTING) -> list[Program]:
    """The programs that may run and were named by one of ``options``."""
    return [program for program in _given.programs if program.option in options]


def program_at(path: Path) -> Program | None:
    """The program of a file, if it may run."""
    resolved = path.resolve()
    return next((one for one in reversed(_given.programs) if one.path == resolved), None)


def words(options: Sequence[str] = LASTING) -> list[str]:
    """Options and arguments by which the next command names the same programs."""
    return [word for one in programs(options) for word in (one.option, one.given)]


def accept_changes() -> None:
    """Decide that changed files of the runs that are opened are taken as they are."""
    _given.accepts_changes = True


def accepts_changes() -> bool:
    """Whether ``--accept-changes`` was given."""
    return _given.accepts_changes


def on_one_line(name: str) -> str:
    """A name as a shell takes it, or escaped where it would not stay on its line."""
    return shlex.quote(name) if name.isprintable() else ascii(name)[:200]
