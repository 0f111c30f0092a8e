"""``bptool config``: check a configuration, show its values and sources, print the schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bptool.cli import terminal

app = typer.Typer(no_args_is_help=True, help="Show and check configurations.")

WIDTH_OF_PIPES = 200


@app.command("show")
def show(
    config: Annotated[Path, typer.Argument(help="A configuration file (YAML), or a study's.")],
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change a value; repeatable."),
    ] = None,
    as_yaml: Annotated[
        bool, typer.Option("--yaml", help="Print the whole as a configuration file.")
    ] = False,
) -> None:
    """Check a configuration and show every value with where it came from."""
    from rich.table import Table
    from rich.text import Text

    from bptool.cli.console import Console
    from bptool.config.load import flatten, is_study, read_study, resolve, to_yaml

    read = read_study if is_study(config) else resolve
    resolved = read(config, sets or [])
    if as_yaml:
        terminal.write(to_yaml(resolved.config))
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("key", style="bold", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("from", overflow="fold")
    for key, value in flatten(resolved.config).items():
        source = resolved.provenance[key]
        quiet = "dim" if source in ("default", "derived") else "cyan"
        table.add_row(Text(key), Text(value), Text(source, style=quiet))
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH_OF_PIPES
    console.print(table)


@app.command("schema")
def schema(
    study: Annotated[
        bool, typer.Option("--study", help="The schema of a STUDY.yaml, for compare-optimizers.")
    ] = False,
) -> None:
    """Print the JSON Schema of a configuration, for editors that complete and check as you type.

    Save it and put this in the first line of a configuration:
    # yaml-language-server: $schema=PATH
    """

    from bptool.config.schema import json_schema
    from bptool.config.study_section import study_schema

    found = study_schema() if study else json_schema()
    terminal.json(found, indent=2)
