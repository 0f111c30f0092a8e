"""Writes docs/commands.md from the commands' own help: ``make docs``.

``tests/test_cli_reference.py`` fails when the file is not what this script would write.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bptool.cli.commands import COMMANDS, load
from bptool.files import write_text

PAGE = Path(__file__).resolve().parent / "commands.md"
HEAD = """# Commands

Written by `make docs` from the commands' own help. Every command also takes `--help`, `--debug` to
show the traceback of an error, and `--accept-changes` to take files and programs of a run as they
are though they were changed since ([run-folder.md](run-folder.md#what-runs-and-what-was-changed)).

| exit code | |
|---|---|
| 0 | done |
| 1 | failed: a check that does not hold, no learning rate to suggest, a defect of bptool |
| 2 | something to mend in what was asked: an option, a setting, a file |
| 3 | training ended, and no evaluation was ever below guessing |
| 124 | `--time-limit` has passed; the work is saved |
| 129, 130, 143 | stopped by a closed terminal, by Ctrl-C, by SIGTERM; see the command |

**Exit code 3** belongs to `bptool train` and `bptool finetune sft`. Guessing is the loss of
predicting each token by how frequent it is among those that are trained on, measured on the
validation part.
The code is given where a run came to its end (its last step, early stopping, numbers that are not
finite) and no evaluation was below that. A run of fewer than 100 steps may still be on its way
down, and is only told so, unless its last validation loss is not finite or above one and a half
times the loss of its first step. The checkpoints are kept. The losses of the other methods are not
losses of tokens, and guessing says nothing about them.
"""


def one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def default_of(parameter: Any) -> str:
    """The default where it says something: not for flags that are off and lists that are empty."""
    value = parameter.default
    if value is None or value is False or value == [] or value == () or callable(value):
        return ""
    if type(value).__name__ == "Sentinel":  # newer click's word for "no default"
        return ""
    return f" Default: `{getattr(value, 'value', value)}`."


def rows(command: Any) -> Iterator[str]:
    """A table row for each argument, then for each option."""
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option"]
    for parameter in arguments:
        name = (parameter.metavar or parameter.name).upper()
        many = "..." if parameter.nargs != 1 else ""
        needed = "" if parameter.required else " May be left out."
        yield f"| `{name}{many}` | {cell(one_line(parameter.help))}{needed} |"
    for parameter in options:
        if parameter.hidden or "--help" in parameter.opts:
            continue
        names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
        says_so = "repeatable" in one_line(parameter.help).lower()
        repeat = " Repeatable." if parameter.multiple and not says_so else ""
        needed = " Required." if parameter.required else ""
        text = f"{cell(one_line(parameter.help))}{needed}{repeat}{cell(default_of(parameter))}"
        yield f"| {names} | {text} |"


def section(path: str, command: Any, level: int) -> Iterator[str]:
    """The heading, description and table of a command, then those of the commands inside it."""
    yield f"{'#' * level} `{path}`"
    for paragraph in (command.help or "").split("\n\n"):
        yield one_line(paragraph)
    table = list(rows(command))
    if table:
        yield "\n".join(["| | |", "|---|---|", *table])
    for name, inner in getattr(command, "commands", {}).items():
        yield from section(f"{path} {name}", inner, level + 1)


def page() -> str:
    """The whole reference."""
    parts = [HEAD.rstrip()]
    for name in COMMANDS:
        parts.extend(section(f"bptool {name}", load(name), 2))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    write_text(PAGE, page())
    print(f"wrote {PAGE}")
