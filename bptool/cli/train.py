"""``bptool train``: train a model from a configuration or from text files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    source: Annotated[
        list[str],
        typer.Argument(help="A CONFIG.yaml, or text files to train on with fitting settings."),
    ],
    text: Annotated[
        list[str] | None,
        typer.Option("--text", help="Train on this text in place of the configuration's."),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting: training.steps=500. Repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the run.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, exactly.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print size, memory and time, and stop.")
    ] = False,
    plugin: Annotated[
        list[str] | None,
        typer.Option("--plugin", help="A file or module of yours with more parts."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only the last line and errors.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object an event.")] = False,
) -> None:
    """Train a language model.

    bptool train CONFIG.yaml, or bptool train book.txt for a model that fits the text.
    """
    from bptool.cli import training_session as session

    for name in plugin or []:
        session.load_plugin(name)
    request = session.request(source, text or [], sets or [], out, resume)
    if plan:
        session.print_plan(request, json)
        return
    raise typer.Exit(session.train(request, quiet, json))
