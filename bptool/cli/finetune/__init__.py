"""``bptool finetune``: train a trained model further, a method a command."""

from __future__ import annotations

import typer

from bptool.cli.finetune.sft import sft

app = typer.Typer(no_args_is_help=True, help="Train a trained model further, on conversations.")
app.command("sft")(sft)
