"""``bptool diff``: why two runs differ, and from which step on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bptool.cli import terminal
from bptool.cli.programs import Plugins
from bptool.recipes.programs import load_programs


def diff(
    left: Annotated[Path, typer.Argument(help="Folder of a run.")],
    right: Annotated[Path, typer.Argument(help="Folder of another.")],
    plugin: Plugins = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show why two runs differ, and from which step on.

    Settings, versions, machine and text of two runs, the first step at which their metrics
    differ, and the first tensor. Exits with 1 where anything differs.
    """
    from bptool.training.run_difference import compare_runs

    load_programs(plugin, left, right)
    found = compare_runs(left, right)
    if json:
        plain = [one._asdict() for one in found]
        terminal.json({"same": not found, "differences": plain})
    elif not found:
        terminal.line("no difference, timings aside")
    else:
        from rich.table import Table
        from rich.text import Text

        from bptool.cli.console import Console

        table = Table(box=None, pad_edge=False)
        for heading in ("", "what", str(left), str(right)):
            table.add_column(Text(heading), overflow="fold")
        for one in found:
            mark = f"{one.kind}*" if one.explains else one.kind
            table.add_row(*(Text(cell) for cell in (mark, one.what, one.left, one.right)))
        Console().print(table)
        if any(one.explains for one in found):
            terminal.line("* decides the bits of a run by itself")
    if found:
        raise typer.Exit(1)
