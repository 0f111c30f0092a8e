"""``bptool finetune``: train a trained model further, a method a command."""

from __future__ import annotations

import typer

from bptool.cli.finetune.dpo import dpo
from bptool.cli.finetune.grpo import grpo
from bptool.cli.finetune.ppo import ppo
from bptool.cli.finetune.reward import reward
from bptool.cli.finetune.sft import sft

app = typer.Typer(
    no_args_is_help=True, help="Train a trained model further, on conversations and judgements."
)
app.command("sft")(sft)
app.command("reward")(reward)
app.command("dpo")(dpo)
app.command("ppo")(ppo)
app.command("grpo")(grpo)
