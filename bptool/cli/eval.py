"""``bptool eval``: measure a trained model on a validation text."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    text: Annotated[
        list[str] | None,
        typer.Option("--text", help="Measure on the whole of this text. Repeatable."),
    ] = None,
    nanogpt_estimator: Annotated[
        bool,
        typer.Option("--nanogpt-estimator", help="Also nanoGPT's random-batch estimate."),
    ] = False,
    last: Annotated[
        bool, typer.Option("--last", help="The last checkpoint in place of the best.")
    ] = False,
    plugin: Annotated[list[str] | None, typer.Option("--plugin", help="A file of yours.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Loss, perplexity and bits per byte over the whole validation split."""
    from bptool.cli.evaluation import evaluate_run
    from bptool.plugins import load_plugin

    for name in plugin or []:
        load_plugin(name)
    result = evaluate_run(run, text or [], nanogpt_estimator, last)
    if json:
        typer.echo(json_module.dumps(result))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{run} at step {result['step']:,}", show_header=False)
    table.add_row("loss (nats per token)", f"{result['val_loss']:.4f}")
    table.add_row("perplexity", f"{result['perplexity']:.3f}")
    table.add_row("bits per byte", f"{result['bits_per_byte']:.4f}")
    table.add_row("tokens measured", f"{result['n_tokens']:,}")
    if nanogpt_estimator:
        estimate, deviation = result["nanogpt_estimate"], result["nanogpt_standard_deviation"]
        batches = f"{result['nanogpt_batches']} batches of {result['nanogpt_batch_size']}"
        table.add_row(f"nanoGPT's estimate, {batches}", f"{estimate:.4f} ± {deviation:.4f}")
    Console().print(table)
