"""The table of commands, each loaded only when it is called."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from bptool.errors import UserError, did_you_mean

CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"]}


class Entry(NamedTuple):
    """Where a command lives, and the line that describes it in ``bptool --help``."""

    target: str
    """``module:attribute``: a function, or a ``typer.Typer`` with commands of its own."""
    help: str


COMMANDS: dict[str, Entry] = {
    "train": Entry(
        "bptool.cli.train:train", "Train a model from a configuration or from text files."
    ),
    "generate": Entry("bptool.cli.generate:generate", "Write text with a trained model."),
    "chat": Entry("bptool.cli.chat:chat", "Talk with a model that was fine-tuned to answer."),
    "eval": Entry(
        "bptool.cli.eval:evaluate",
        "Measure a trained model: loss, perplexity and bits per byte of its validation split.",
    ),
    "finetune": Entry(
        "bptool.cli.finetune:app", "Train a trained model further, on conversations and judgements."
    ),
    "feedback": Entry(
        "bptool.cli.feedback:feedback", "Collect judgements of the answers of a trained model."
    ),
    "merge": Entry(
        "bptool.cli.merge:merge",
        "Fold the low-rank adapters of a run into its weights, as a run without adapters.",
    ),
    "evaluate-preference": Entry(
        "bptool.cli.evaluate_preference:evaluate_preference",
        "Compare the answers of two runs: a win rate with its interval.",
    ),
    "gradcheck": Entry(
        "bptool.cli.gradcheck:gradcheck", "Check every gradient against finite differences."
    ),
    "lr-find": Entry(
        "bptool.cli.lr_find:lr_find", "Find a learning rate, by a sweep and a few short runs."
    ),
    "compare-optimizers": Entry(
        "bptool.cli.compare_optimizers:compare_optimizers",
        "Train the same models with several optimizers and compare the losses.",
    ),
    "profile": Entry(
        "bptool.cli.profile:profile", "Show where a training step's time goes, by operation."
    ),
    "verify-resume": Entry(
        "bptool.cli.verify_resume:verify",
        "Prove that a run of your own configuration resumes exactly.",
    ),
    "diff": Entry("bptool.cli.diff:diff", "Show why two runs differ, and from which step on."),
    "config": Entry("bptool.cli.config:app", "Show and check configurations."),
    "data": Entry("bptool.cli.data:app", "Fetch and prepare texts."),
}


def load(name: str) -> Any:
    """Import the command called ``name`` and return it in the form that Typer runs."""
    entry = COMMANDS[name]
    module, _, attribute = entry.target.partition(":")
    part = getattr(importlib.import_module(module), attribute)
    parent = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    if isinstance(part, typer.Typer):
        parent.add_typer(part, name=name, context_settings=CONTEXT_SETTINGS)
        return get_command(parent).commands[name]  # type: ignore[attr-defined]
    parent.command(name, context_settings=CONTEXT_SETTINGS)(part)
    command = get_command(parent)
    command.name = name
    return command


class LazyGroup(TyperGroup):
    """A group that lists its commands from the table and imports only the one that runs."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The commands' names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """What a listing needs of a command: its name and its line of help."""
        if cmd_name not in COMMANDS:
            return None
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name].help)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that ``args`` start with, loaded, and the arguments left for it."""
        name = args[0]
        if name.startswith("-"):
            return super().resolve_command(ctx, args)
        if name not in COMMANDS:
            raise UserError(f"no such command '{name}'{did_you_mean(name, COMMANDS)}")
        return name, load(name), args[1:]
