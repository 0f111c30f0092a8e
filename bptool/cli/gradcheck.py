"""``bptool gradcheck``: every gradient against finite differences, on the user's own model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bptool.cli import terminal
from bptool.cli.programs import Plugins
from bptool.recipes.programs import load_programs

if TYPE_CHECKING:
    from bptool.gradient_check.session import Watch


def gradcheck(
    config: Annotated[
        Path | None,
        typer.Argument(help="Check the model of this CONFIG.yaml, and the program that trains it."),
    ] = None,
    ops: Annotated[
        bool,
        typer.Option("--ops", help="Check every operation, loss and regulariser alone as well."),
    ] = False,
    objective: Annotated[
        str | None,
        typer.Option(
            "--objective",
            help="Check this objective of fine-tuning through the model instead of its loss: dpo, "
            "ipo, kto, reward, ppo, grpo, or mixed, which is ppo with a pretraining mix.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of weights, batch and probes.")] = 0,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting: model.n_layer=2. Repeatable."),
    ] = None,
    plugin: Plugins = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Check every gradient against finite differences.

    Central differences and Taylor tests are taken at float64.

    Without a CONFIG.yaml the operations alone are checked, and with --objective or --set a small
    GPT-2 of bptool's own. Exit code 1 if any gradient is wrong.
    """
    from bptool.gradient_check import session

    load_programs(plugin, config)
    found = session.Findings()
    model_asked_for = config is not None or bool(sets) or objective is not None
    with _progress(quiet=json) as watch:
        if ops or not model_asked_for:
            session.check_operations(found, seed, watch)
        if model_asked_for:
            session.check_model(found, config, sets or [], seed, watch, objective)
    if json:
        terminal.json(found.to_json())
    else:
        from bptool.cli.gradcheck_report import show

        show(found)
    raise typer.Exit(0 if found.ok else 1)


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Watch]:
    """A bar on stderr where that is a terminal, else nothing."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from bptool.cli.console import Console

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    hidden = quiet or not console.is_terminal
    with Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True, disable=hidden
    ) as bar:
        task = bar.add_task("compiling", total=None)

        def watch(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield watch
