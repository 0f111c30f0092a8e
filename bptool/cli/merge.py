"""``bptool merge``: fold the adapters of a run into its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bptool.cli import terminal
from bptool.cli.programs import Plugins
from bptool.recipes.programs import load_programs


def merge(
    run: Annotated[Path, typer.Argument(help="Folder of a run with adapters.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the new run.")],
    last: Annotated[
        bool, typer.Option("--last", help="The last checkpoint in place of the best.")
    ] = False,
    plugin: Plugins = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Fold the low-rank adapters of a run into its weights, as a run without adapters."""
    from bptool.training.merge import merge_run

    load_programs(plugin, run)
    found = merge_run(run, out, last)
    if json:
        result = {"run_dir": str(found.folder.path), "step": found.run.step}
        result |= {"n_parameters": found.n_parameters}
        terminal.json(result)
        return
    terminal.line(
        f"merged the adapters of {run} at step {found.run.step:,} into {found.folder.path}: "
        f"{found.n_parameters:,} parameters"
    )
