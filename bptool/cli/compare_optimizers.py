"""``bptool compare-optimizers``: the same model and batches, trained by several optimizers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare_optimizers(
    config: Annotated[Path, typer.Argument(help="A CONFIG.yaml, as for bptool train.")],
    optimizers: Annotated[
        str, typer.Option("--optimizers", help="Which, by name, separated by commas.")
    ] = "sgd,momentum,rmsprop,adam,adamw",
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            min=1,
            help="Updates of each trial; schedule and evaluations shrink with them. "
            "By default as configured.",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, max=1000, help="How often each is trained.")
    ] = 3,
    learning_rate: Annotated[
        list[str] | None,
        typer.Option("--learning-rate", help="An optimizer's rate: adam=1e-3. Repeatable."),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", help="Train on this text in place of the configuration's."),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting: model.n_layer=2. Repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of results and plot.")] = None,
    plugin: Annotated[
        list[str] | None,
        typer.Option("--plugin", help="A file or module of yours with more optimizers."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only the table and errors.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Only one JSON object at the end.")] = False,
) -> None:
    """Train the same model with several optimizers and compare the losses.

    Within a seed all begin at the same weights and see the same batches.
    The configuration's own optimizer keeps its settings; the others have their
    defaults, with a learning rate that suits small models unless one is given.
    """
    from bptool.cli import comparison_session as session

    wanted = session.request(
        config,
        optimizers,
        steps,
        seeds,
        rates=learning_rate or [],
        texts=text or [],
        sets=sets or [],
        out=out,
        plugins=plugin or [],
    )
    session.compare(wanted, quiet, json)
