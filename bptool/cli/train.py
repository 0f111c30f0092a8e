"""``bptool train``: train a model from a configuration or from text files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from bptool.cli.programs import Plugins, Reward
from bptool.recipes.programs import load_programs, with_reward


def train(
    source: Annotated[
        list[str],
        typer.Argument(help="A CONFIG.yaml, text files (- is standard input), or a run to resume."),
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
    start: Annotated[
        Path | None,
        typer.Option("--from", help="Start from this run's weights, with its tokenizer."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run, exactly.")] = False,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="With --resume: go on from this one, step-00000500, not from the last."),
    ] = None,
    time_limit: Annotated[
        str | None,
        typer.Option(help="Stop and save before so long, 55m or 1h30m, and exit with code 124."),
    ] = None,
    detect_anomaly: Annotated[
        bool,
        typer.Option(help="Stop at the first number that is not finite and say what made it."),
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Predict memory and time, and stop.")
    ] = False,
    measure_again: Annotated[
        bool,
        typer.Option("--measure-again", help="With --plan: measure the machine anew."),
    ] = False,
    plugin: Plugins = None,
    reward: Reward = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only the last line and errors.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object an event.")] = False,
) -> None:
    """Train a model from a configuration or from text files.

    bptool train CONFIG.yaml, or bptool train book.txt for a model that fits the text, or
    bptool train RUN --resume to go on with a run, or bptool train more.txt --from RUN to start
    on another text from what a run has learnt. Ctrl-C, SIGTERM and a closed terminal finish the
    step, save, and exit with code 130, 143 or 129; a second Ctrl-C leaves at once, with the last
    checkpoint intact.
    """
    from bptool.cli.time_limit import seconds_of
    from bptool.recipes.training import run_resumed, settle

    seconds = None if time_limit is None else seconds_of(time_limit)
    resumed = run_resumed(source, out) if resume else None
    load_programs(plugin, *source, start, reward=reward, resumed=None if plan else resumed)
    request = settle(source, text or [], sets or [], out, resume, checkpoint, start)
    request = replace(request, config=with_reward(request.config, reward))
    if plan:
        from bptool.cli.training_plan import print_plan

        print_plan(request, json, measure_again, plugin or [])
        return
    from bptool.cli.training_session import train as run

    run(replace(request, seconds=seconds, detect_anomaly=detect_anomaly), quiet, json)
