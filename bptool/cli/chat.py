"""``bptool chat``: a conversation with a trained model in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bptool.cli.programs import Plugins
from bptool.cli.stop import STOP_HELP, stop_strings
from bptool.recipes.programs import load_programs


def chat(
    run: Annotated[Path, typer.Argument(help="Folder of a run that was fine-tuned to answer.")],
    system: Annotated[
        str | None, typer.Option("--system", help="What the system says before all else.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Length of an answer.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Draw from so many likeliest tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the likeliest share.")] = None,
    seed: Annotated[int, typer.Option(help="Fixes every draw.")] = 0,
    stop: Annotated[list[str] | None, typer.Option("--stop", help=STOP_HELP)] = None,
    template: Annotated[
        str | None, typer.Option("--template", help="For a run that has no chat template: plain.")
    ] = None,
    last: Annotated[
        bool, typer.Option("--last", help="The last checkpoint in place of the best.")
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Talk with a model that was fine-tuned to answer.

    /help lists what else can be typed; Ctrl-C stops an answer, /quit ends.

    Where the input is no terminal, each line of it is what you say.
    """
    from bptool.cli.chat_session import Settings, talk

    load_programs(plugin, run)
    settings = Settings(
        system=system,
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop=stop_strings(stop),
    )
    talk(run, settings, template, last)
