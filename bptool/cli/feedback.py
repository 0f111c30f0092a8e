"""``bptool feedback``: collect people's judgement of a model's answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bptool.cli.programs import Plugins
from bptool.recipes.programs import load_programs


def feedback(
    run: Annotated[Path, typer.Argument(help="Folder of the run that answers.")],
    prompts: Annotated[
        list[Path],
        typer.Option("--prompts", help="Prompts: a text file, one a line, or JSON Lines."),
    ],
    out: Annotated[
        Path, typer.Option("--out", help="File of judgements; one that is there goes on.")
    ],
    reviewer: Annotated[
        str | None, typer.Option("--reviewer", help="Your name; by default that of the account.")
    ] = None,
    judge: Annotated[
        Path | None,
        typer.Option("--judge", help="A Python file that judges in place of a person."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most so many of the prompts.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Length of an answer.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Draw from so many likeliest tokens.")] = None,
    seed: Annotated[
        int, typer.Option(help="Fixes answers and sides; the same for all reviewers.")
    ] = 0,
    last: Annotated[
        bool, typer.Option("--last", help="The last checkpoint in place of the best.")
    ] = False,
    plugin: Plugins = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Judge on a page in the browser, on this machine.")
    ] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="With --serve; 0: any that is free.")
    ] = 0,
    json: Annotated[
        bool, typer.Option("--json", help="With --judge: one JSON object at the end.")
    ] = False,
) -> None:
    """Collect judgements of the answers of a trained model.

    Two answers to each prompt are shown, and which one is better is kept.

    Each judgement is on the disk before the next pair is shown. Keys: left or 1, right or 2,
    t tie, s skip, e edit, u undo, q quit.
    """
    from bptool.cli.feedback_session import Request, collect
    from bptool.errors import UserError

    if serve and judge:
        raise UserError("--serve and --judge exclude each other; choose one")
    if json and not judge:
        raise UserError("--json needs --judge")
    load_programs(plugin, run, judge=judge)
    collect(
        Request(
            run=run,
            prompts=prompts,
            out=out,
            reviewer=reviewer,
            judge=judge,
            limit=limit,
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            seed=seed,
            last=last,
            port=port if serve else None,
            json=json,
        )
    )
