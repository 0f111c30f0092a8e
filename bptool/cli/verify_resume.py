"""``bptool verify-resume``: prove on one's own configuration that a resume loses no bit."""

from __future__ import annotations

from typing import Annotated

import typer

from bptool.cli import terminal
from bptool.cli.programs import Plugins, Reward
from bptool.recipes.programs import load_programs, with_reward


def verify(
    source: Annotated[list[str], typer.Argument(help="A CONFIG.yaml, or text files.")],
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting. Repeatable.")
    ] = None,
    steps: Annotated[int, typer.Option(help="How many steps are compared.", min=2)] = 12,
    stop: Annotated[
        list[int] | None,
        typer.Option(help="Stop after this step; several in one run. By default at some and all."),
    ] = None,
    plugin: Plugins = None,
    reward: Reward = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Prove that a run of your own configuration resumes exactly.

    Train some steps in one go, and stopped and resumed, and compare weights, optimizer state,
    metrics and samples bit for bit. Exits with 1 where anything differs.
    """
    from bptool.recipes.training import resolve_source
    from bptool.training.verify_resume import default_stops, verify_resume

    load_programs(plugin, *source, reward=reward)
    config = with_reward(resolve_source(source, [], sets or []).config, reward)
    steps = min(steps, config.training.steps)
    stops = [tuple(sorted(set(stop)))] if stop else default_stops(steps)
    results = []
    for found in verify_resume(config, steps, stops):
        results.append(found)
        if not json:
            where = ", ".join(map(str, found.stops))
            verdict = "differs" if found.differences else "every bit is the same"
            terminal.line(f"stopped after step {where}: {verdict}")
            for one in found.differences:
                terminal.line(
                    f"  {one.kind}: {one.what}: {one.left} in one go, {one.right} resumed"
                )
    same = not any(found.differences for found in results)
    if json:
        plain = [
            {"stops": found.stops, "differences": [one._asdict() for one in found.differences]}
            for found in results
        ]
        terminal.json({"steps": steps, "same": same, "results": plain})
    elif same:
        terminal.line(f"{steps} steps, {len(results)} ways to stop: a resume changes nothing")
    if not same:
        raise typer.Exit(1)
