"""``bptool finetune ppo``: the InstructGPT recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bptool.cli.programs import Plugins
from bptool.recipes.programs import load_programs


def ppo(
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
    ] = 40,
    n_prompts: Annotated[
        int, typer.Option("--prompts-per-step", min=1, help="Prompts that a step answers.")
    ] = 64,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="Longest answer, its end included.")
    ] = 64,
    kl_weight: Annotated[
        float,
        typer.Option(
            "--kl-weight",
            help="What a nat from the start takes off a reward, in deviations of the rewards.",
        ),
    ] = 0.2,
    kl_target: Annotated[
        float | None,
        typer.Option("--kl-target", help="Nats an answer that the weight is adapted to reach."),
    ] = None,
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
    """Move a trained model toward answers of high reward by proximal policy optimization.

    Each step samples answers, has them rewarded and makes a few clipped updates; what holds the
    model to where it started is the KL divergence. Settings of rollouts.* and objective.* are in
    docs/config.md. A run that was stopped goes on with `bptool train RUN --resume`.
    """
    from bptool.cli.training_session import train
    from bptool.recipes.fine_tuning import settle_rollouts

    load_programs(plugin, run)
    request = settle_rollouts(
        run,
        "ppo",
        reward=reward,
        prompts=prompts,
        validation=validation or [],
        steps=steps,
        skip_bad=skip_bad,
        template=template,
        checkpoint="last" if last else "best",
        rollouts={
            "prompts": n_prompts,
            "max_tokens": max_tokens,
            "kl_weight": kl_weight,
            "kl_target": kl_target,
        },
        sets=sets or [],
        out=out,
    )
    train(request, quiet, json)
