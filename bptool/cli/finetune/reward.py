"""``bptool finetune reward``: a model that scores answers as people would."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bptool.cli.programs import Plugins
from bptool.recipes.programs import load_programs


def reward(
    run: Annotated[Path, typer.Argument(help="Folder of the run to start from.")],
    data: Annotated[
        list[str],
        typer.Option("--data", help="Judgements to learn from: JSON or JSON Lines. Repeatable."),
    ],
    validation: Annotated[
        list[str] | None,
        typer.Option("--validation", help="Judgements to validate with; else a share of --data."),
    ] = None,
    epochs: Annotated[
        float, typer.Option("--epochs", help="Times that each judgement is seen.")
    ] = 2,
    template: Annotated[
        str | None, typer.Option("--template", help="Chat template: roles, chatml or plain.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave broken records out.")] = False,
    last: Annotated[
        bool, typer.Option("--last", help="Start from the last checkpoint, not from the best.")
    ] = False,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting: optimizer.learning_rate=1e-4. Repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the new run.")] = None,
    plugin: Plugins = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only the last line and errors.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object an event.")] = False,
) -> None:
    """Train a reward model on judgements: it scores answers, and the better ones higher.

    Judgements are {"prompt", "chosen", "rejected"}, with strings or lists of messages, or two whole
    conversations. At the end comes how often it agrees with judgements that it has not seen, and
    how far its probabilities can be believed.
    """
    from bptool.cli.training_session import train
    from bptool.recipes.fine_tuning import settle_preferences

    load_programs(plugin, run)
    request = settle_preferences(
        run,
        {"name": "reward"},
        data=data,
        validation=validation or [],
        epochs=epochs,
        skip_bad=skip_bad,
        template=template,
        checkpoint="last" if last else "best",
        sets=sets or [],
        out=out,
    )
    train(request, quiet, json)
