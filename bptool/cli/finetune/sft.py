"""``bptool finetune sft``: supervised fine-tuning on records of conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from bptool.cli.programs import Plugins
from bptool.recipes.programs import load_programs


def sft(
    run: Annotated[Path, typer.Argument(help="Folder of the run to start from.")],
    data: Annotated[
        list[str],
        typer.Option(
            "--data", help="Records to train on: a file, folder or pattern, or -. Repeatable."
        ),
    ],
    validation: Annotated[
        list[str] | None,
        typer.Option("--validation", help="Records to validate with; else a share of the others."),
    ] = None,
    template: Annotated[
        str | None, typer.Option("--template", help="Chat template: roles, chatml or plain.")
    ] = None,
    form: Annotated[
        Literal["messages", "conversations", "instruction", "prompt", "text"] | None,
        typer.Option("--form", help="Of records whose keys fit two forms."),
    ] = None,
    epochs: Annotated[float, typer.Option("--epochs", help="Times that each record is seen.")] = 3,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave broken records out.")] = False,
    last: Annotated[
        bool, typer.Option("--last", help="Start from the last checkpoint, not from the best.")
    ] = False,
    lora: Annotated[
        str | None,
        typer.Option(
            "--lora",
            help="Train adapters on frozen weights: rank=8,alpha=16,targets=attention+mlp.",
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting: optimizer.learning_rate=1e-4. Repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the new run.")] = None,
    plugin: Plugins = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only the last line and errors.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object an event.")] = False,
) -> None:
    """Teach a trained model to answer, from records of questions and answers.

    Records are {"messages": [...]}, {"conversations": [...]}, {"prompt", "completion"},
    {"instruction", "input", "output"} or {"text"}, from JSON Lines, JSON, CSV, TSV or Parquet; see
    docs/data.md. Only what the assistant says is trained on. A run that was stopped goes on with
    `bptool train RUN --resume`.
    """
    from bptool.cli.training_session import train
    from bptool.recipes.fine_tuning import settle_sft

    load_programs(plugin, run)
    request = settle_sft(
        run,
        data=data,
        validation=validation or [],
        template=template,
        epochs=epochs,
        skip_bad=skip_bad,
        checkpoint="last" if last else "best",
        lora=lora,
        form=form,
        sets=sets or [],
        out=out,
    )
    train(request, quiet, json)
