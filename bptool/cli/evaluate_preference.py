"""``bptool evaluate-preference``: whose answers are better, and how sure that is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bptool.cli.programs import Plugins
from bptool.recipes.programs import load_programs


def evaluate_preference(
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder of a run.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Folder of the run to compare with.")],
    prompts: Annotated[
        list[Path],
        typer.Option("--prompts", help="Prompts that neither was trained on: lines, or records."),
    ],
    judge: Annotated[
        Path | None, typer.Option("--judge", help="A Python file with judge() or reward().")
    ] = None,
    reward: Annotated[
        Path | None, typer.Option("--reward", help="Folder of a reward run, or a Python file.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most so many of the prompts.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Length of an answer.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.8,
    seed: Annotated[int, typer.Option(help="Fixes the answers.")] = 0,
    last: Annotated[
        bool, typer.Option("--last", help="The last checkpoints in place of the best.")
    ] = False,
    plugin: Plugins = None,
    show: Annotated[int, typer.Option(min=0, help="Print so many pairs of answers.")] = 3,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Compare the answers of two runs: a win rate with its interval.

    The win rate is that of A over B on the same prompts, with a 95 % interval; ties count half.

    A judge that depends on the side is asked both ways; where it contradicts itself that is a tie.
    """
    from bptool.cli.preference_session import Request, compare
    from bptool.errors import UserError

    if (judge is None) == (reward is None):
        raise UserError("name what decides: --judge rules.py, or --reward RUN")
    load_programs(
        plugin, first, second, reward=None if reward is None else str(reward), judge=judge
    )
    compare(
        Request(
            runs=(first, second),
            prompts=prompts,
            judge=judge,
            reward=reward,
            limit=limit,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            last=last,
            show=show,
            json=json,
        )
    )
