"""Options that name programs of the user's, and the command that names them again."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from bptool import consent

Plugins = Annotated[
    list[str] | None,
    typer.Option("--plugin", help="A Python file or module with more parts, which is run."),
]
Reward = Annotated[
    str | None,
    typer.Option(
        "--reward",
        help="What rewards answers, in place of the configuration's: a Python file, which is run "
        "and must be named here, or a reward run.",
    ),
]


def resume_command(run: str) -> str:
    """The command that goes on with a run, naming the programs of this one."""
    return shlex.join(["bptool", "train", run, "--resume", *consent.words()])
