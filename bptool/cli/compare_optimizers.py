"""``bptool compare-optimizers``: the same models and batches, trained by several optimizers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bptool.recipes.programs import load_programs


def compare_optimizers(
    configs: Annotated[
        list[Path] | None,
        typer.Argument(help="A STUDY.yaml, or one CONFIG.yaml or more as for bptool train."),
    ] = None,
    optimizers: Annotated[
        str | None, typer.Option("--optimizers", help="Which, by name, separated by commas.")
    ] = None,
    ruleset: Annotated[
        str | None,
        typer.Option(
            "--ruleset",
            help="defaults: fixed settings; tuned: the best of an equal number of trials.",
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option("--trials", help="Settings tried of each optimizer, if tuned.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            min=1,
            help="Updates of each run; schedule and evaluations shrink with them. "
            "By default as configured.",
        ),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(
            "--target",
            help="Validation loss to reach; by default what AdamW reaches with every seed.",
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option("--seeds", help="Runs of each that are compared; 5 by default."),
    ] = None,
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
        typer.Option("--set", help="Change a setting of the file: model.n_layer=2. Repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of results and report.")] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Go on with the study in this folder.")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option("--processes", min=1, help="Trials at once; as many as cores by default."),
    ] = None,
    mpi: Annotated[
        bool, typer.Option("--mpi", help="Run trials over machines, started by mpiexec.")
    ] = False,
    plugin: Annotated[
        list[str] | None,
        typer.Option("--plugin", help="A file or module of yours with more optimizers."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only the tables and errors.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Only one JSON object at the end.")] = False,
) -> None:
    """Train the same models with several optimizers and compare the losses.

    Within a seed all begin at the same weights and see the same batches.
    Differences from AdamW come with simultaneous intervals over the seeds.
    A study that was stopped or killed goes on with --resume FOLDER.
    """
    from bptool.cli import comparison_session as session
    from bptool.comparison.request import Flags, settle, settle_again

    flags = Flags(
        optimizers=optimizers,
        ruleset=ruleset,
        trials=trials,
        steps=steps,
        target=target,
        seeds=seeds,
        rates=learning_rate or [],
        texts=text or [],
        sets=sets or [],
        processes=processes,
        plugins=plugin or [],
    )
    if resume is not None:
        wanted = settle_again(resume, configs or [], flags, out)
    else:
        load_programs(plugin, *configs or ())
        wanted = settle(configs or [], flags, out)
    session.compare(wanted, mpi=mpi, quiet=quiet, json=json)
