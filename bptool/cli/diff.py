"""``bptool diff``: why two runs differ, and from which step on."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from bptool.cli.programs import Plugins, load_programs


def diff(
    left: Annotated[Path, typer.Argument(help="Folder of a run.")],
    right: Annotated[Path, typer.Argument(help="Folder of another.")],
    plugin: Plugins = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Settings, versions, machine and text of two runs, the first step at which their metrics
    differ, and the first tensor. Exits with 1 where anything differs.
    """
    from bptool.training.run_difference import compare_runs

    load_programs(plugin, left, right)
    found = compare_runs(left, right)
    if json:
        plain = [one._asdict() for one in found]
        typer.echo(json_module.dumps({"same": not found, "differences": plain}))
    elif not found:
        typer.echo("no difference, timings aside")
    else:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False)
        for heading in ("", "what", str(left), str(right)):
            table.add_column(Text(heading), overflow="fold")
        for one in found:
            mark = f"{one.kind}*" if one.explains else one.kind
            table.add_row(*(Text(cell) for cell in (mark, one.what, one.left, one.right)))
        Console().print(table)
        if any(one.explains for one in found):
            typer.echo("* decides the bits of a run by itself")
    if found:
        raise typer.Exit(1)
