"""``bptool finetune dpo``: direct preference optimization, IPO or KTO."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bptool.cli.programs import Plugins
from bptool.errors import ConfigError
from bptool.recipes.programs import load_programs

LOSSES = ("dpo", "ipo", "kto")


def dpo(
    run: Annotated[Path, typer.Argument(help="Folder of the run to start from.")],
    data: Annotated[
        list[str],
        typer.Option("--data", help="Judgements to learn from: JSON or JSON Lines. Repeatable."),
    ],
    validation: Annotated[
        list[str] | None,
        typer.Option("--validation", help="Judgements to validate with; else a share of --data."),
    ] = None,
    loss: Annotated[
        str, typer.Option("--loss", help="What is minimised: dpo, ipo or kto.")
    ] = "dpo",
    beta: Annotated[
        float, typer.Option("--beta", help="How closely the model is held to where it starts.")
    ] = 0.1,
    label_smoothing: Annotated[
        float,
        typer.Option(
            "--label-smoothing", help="Probability that a judgement is wrong; for dpo only."
        ),
    ] = 0.0,
    epochs: Annotated[
        float, typer.Option("--epochs", help="Times that each judgement is seen.")
    ] = 1,
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
    """Move a trained model toward the answers that people prefer.

    Judgements are {"prompt", "chosen", "rejected"}, with strings or lists of messages, or two whole
    conversations; kto also takes {"prompt", "completion", "label"}. A run that was stopped goes on
    with `bptool train RUN --resume`.
    """
    from bptool.cli.training_session import train
    from bptool.recipes.fine_tuning import settle_preferences

    load_programs(plugin, run)
    if loss not in LOSSES:
        raise ConfigError(f"--loss {loss}: known are {', '.join(LOSSES)}")
    objective: dict[str, Any] = {"name": loss, "beta": beta}
    if label_smoothing and loss != "dpo":
        raise ConfigError(f"--label-smoothing is a setting of dpo; leave it out for {loss}")
    if loss == "dpo":
        objective["label_smoothing"] = label_smoothing
    request = settle_preferences(
        run,
        objective,
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
