"""``bptool eval``: measure a trained model on a validation text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from bptool.cli import terminal, wording
from bptool.cli.programs import Plugins
from bptool.recipes.programs import load_programs


def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    text: Annotated[
        list[str] | None,
        typer.Option("--text", help="Measure on the whole of this text. Repeatable."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", help="Measure on the answers of these records. Repeatable."),
    ] = None,
    form: Annotated[
        Literal["messages", "conversations", "instruction", "prompt", "text"] | None,
        typer.Option("--form", help="With --data: of records whose keys fit two forms."),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="With --data: leave broken records out.")
    ] = False,
    nanogpt_estimator: Annotated[
        bool,
        typer.Option("--nanogpt-estimator", help="Also nanoGPT's random-batch estimate."),
    ] = False,
    last: Annotated[
        bool, typer.Option("--last", help="The last checkpoint in place of the best.")
    ] = False,
    weights: Annotated[
        Literal["raw", "average"] | None,
        typer.Option(help="As trained, or averaged; by default the average where there is one."),
    ] = None,
    plugin: Plugins = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Measure a trained model: loss, perplexity and bits per byte of its validation split."""
    from bptool.config.data_section import DataConfig, RecordsConfig
    from bptool.errors import UserError
    from bptool.training.measure import measure
    from bptool.training.trained import open_run

    load_programs(plugin, run)
    if (form or skip_bad) and not data:
        raise UserError("--form and --skip-bad are for records; name some with --data")
    records = None
    if data:
        section = RecordsConfig(form=form, skip_bad=skip_bad)
        records = DataConfig(text=data, records=section)
    found = measure(open_run(run, last, weights), text or [], nanogpt_estimator, records)
    if json:
        terminal.json(found.to_json())
        return
    from rich.table import Table

    from bptool.cli.console import Console

    whole, estimate = found.whole, found.estimate
    averaged = ", averaged" if found.weights == "average" else ""
    title = f"{run} at step {found.step:,}{averaged}"
    table = Table(title=title, show_header=False)
    table.add_row("loss (nats per token)", f"{whole.loss:.4f}")
    table.add_row("perplexity", f"{whole.perplexity:.3f}")
    table.add_row("bits per byte", wording.decimal(whole.bits_per_byte))
    table.add_row("tokens measured", f"{whole.n_tokens:,}")
    if found.left_out:
        table.add_row("left out", found.left_out)
    if estimate is not None:
        batches = f"{estimate.n_batches} batches of {estimate.batch_size}"
        value = f"{estimate.loss:.4f} ± {estimate.standard_deviation:.4f}"
        table.add_row(f"nanoGPT's estimate, {batches}", value)
    Console().print(table)
