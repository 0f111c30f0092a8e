"""``bptool lr-find``: sweep the learning rate over one short run, and suggest one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bptool.cli.programs import Plugins
from bptool.recipes.programs import load_programs


def lr_find(
    source: Annotated[
        list[str], typer.Argument(help="A CONFIG.yaml or text files, as for `bptool train`.")
    ],
    text: Annotated[
        list[str] | None,
        typer.Option("--text", help="Use this text in place of the configuration's."),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting: optimizer.name=lion. Repeatable."),
    ] = None,
    steps: Annotated[
        int, typer.Option("--steps", min=20, max=10_000, help="Rates of the sweep, one per step.")
    ] = 100,
    trial_steps: Annotated[
        int,
        typer.Option("--trial-steps", min=10, max=100_000, help="Steps of each short run."),
    ] = 150,
    low: Annotated[float, typer.Option("--low", help="Lowest learning rate.")] = 1e-6,
    high: Annotated[float, typer.Option("--high", help="Highest learning rate.")] = 10.0,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for plot and numbers.")] = None,
    plugin: Plugins = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only the last line and errors.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Find a learning rate, by a sweep and a few short runs.

    In the sweep the rate grows at every step, from very low until the loss blows up. That says
    where to look; then four to ten short runs, each at one rate, say which is best. Suggested is
    the middle one of those that are about as good as the best. No weights are kept.
    """
    from bptool.cli.lr_find_session import Request, find
    from bptool.errors import UserError
    from bptool.recipes.request import RUNS, name_of
    from bptool.recipes.training import resolve_source
    from bptool.training.lr_find import RangeTest
    from bptool.training.lr_find_folder import SweepFolder
    from bptool.training.run_folder import free_name

    test = RangeTest(low, high, steps)
    load_programs(plugin, *source)
    if Path(source[0]).is_dir():
        raise UserError(f"{source[0]} is a folder; name a CONFIG.yaml or a text")
    config = resolve_source(source, text or [], sets or []).config
    folder = SweepFolder(out or free_name(RUNS / f"lr-find-{name_of(source)}"))
    options = [("--text", value) for value in text or []]
    options += [("--set", value) for value in sets or [] if not _is_rate(value)]
    options += [("--plugin", value) for value in plugin or []]
    command = ["bptool", "train", *source, *(word for option in options for word in option)]
    find(Request(config, test, trial_steps, folder, command), quiet=quiet, json=json)


def _is_rate(setting: str) -> bool:
    """Whether a ``--set`` gives the very number that is looked for."""
    return setting.partition("=")[0].strip() == "optimizer.learning_rate"
