"""``bptool finetune grpo``: group relative policy optimization."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bptool.cli.programs import Plugins
from bptool.recipes.programs import load_programs


def grpo(
    run: Annotated[Path, typer.Argument(help="Folder of the run to start from.")],
    reward: Annotated[
        str,
        typer.Option(
            "--reward",
            help="A run of finetune reward, or a Python file with reward(prompt, answer).",
        ),
    ],
    prompts: Annotated[
        list[str],
        typer.Option("--prompts", help="A prompt a line, or records with a prompt. Repeatable."),
    ],
    validation: Annotated[
        list[str] | None,
        typer.Option("--validation", help="Prompts to validate with; else a tenth of the others."),
    ] = None,
    steps: Annotated[
        int, typer.Option("--steps", min=1, help="Batches of answers that are sampled.")
    ] = 30,
    n_prompts: Annotated[
        int, typer.Option("--prompts-per-step", min=1, help="Prompts that a step answers.")
    ] = 16,
    answers: Annotated[
        int, typer.Option("--answers", min=2, help="Answers to each prompt, a group.")
    ] = 8,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="Longest answer, its end included.")
    ] = 64,
    template: Annotated[
        str | None, typer.Option("--template", help="Chat template: roles, chatml or plain.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave broken records out.")] = False,
    last: Annotated[
        bool, typer.Option("--last", help="Start from the last checkpoint, not from the best.")
    ] = False,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting: rollouts.updates=4. Repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the new run.")] = None,
    plugin: Plugins = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only the last line and errors.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object an event.")] = False,
) -> None:
    """Move a trained model toward answers of high reward, compared within groups of answers.

    Each step samples several answers to each prompt; those above the mean of their group are made
    likelier. There is no value function. Settings of rollouts.* and objective.* are in
    docs/config.md. A run that was stopped goes on with `bptool train RUN --resume`.
    """
    from bptool.cli.training_session import train
    from bptool.recipes.fine_tuning import settle_rollouts

    load_programs(plugin, run)
    request = settle_rollouts(
        run,
        "grpo",
        reward=reward,
        prompts=prompts,
        validation=validation or [],
        steps=steps,
        skip_bad=skip_bad,
        template=template,
        checkpoint="last" if last else "best",
        rollouts={
            "prompts": n_prompts,
            "answers": answers,
            "max_tokens": max_tokens,
            "updates": 1,
        },
        sets=sets or [],
        out=out,
    )
    train(request, quiet, json)
