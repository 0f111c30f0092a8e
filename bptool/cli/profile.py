"""``bptool profile``: the time budget of a training step, operation by operation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bptool.cli import terminal
from bptool.cli.programs import Plugins
from bptool.recipes.programs import load_programs

if TYPE_CHECKING:
    from bptool.cli.console import Console
    from bptool.training.profile import Profile

WIDTH_OF_PIPES = 100


def profile(
    config: Annotated[Path, typer.Argument(help="A configuration file (YAML).")],
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting: model.n_layer=2. Repeatable."),
    ] = None,
    plugin: Plugins = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show where a training step's time goes, by operation.

    Each operation is run alone on arrays of the step's shapes, on all workers at once; the sum is
    compared with whole steps. Nothing is written.
    """
    from bptool.cli.console import Console
    from bptool.config.load import resolve
    from bptool.training import profile as profiling
    from bptool.training.setup import build

    load_programs(plugin, config)
    pieces = build(resolve(config, sets or []).config)
    try:
        with Console(stderr=True).status("measuring") as status:
            found = profiling.profile(pieces, lambda name: status.update(f"measuring: {name}"))
    finally:
        pieces.close()
    if json:
        terminal.json(found.to_json())
    else:
        _show(Console(), found)


def _show(console: Console, found: Profile) -> None:
    from rich.table import Table

    table = Table(title="A training step", caption=_limits(found), caption_justify="left")
    table.add_column("operation", no_wrap=True)
    for heading in ("ms", "calls", "GFLOP", "MB", "bound by", "of limit", "of step"):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in found.lines:
        table.add_row(
            *(line.name, f"{line.seconds * 1e3:.3f}", f"{line.calls:,}"),
            *(f"{line.flops / 1e9:.3f}" if line.flops else "", f"{line.bytes / 1e6:.2f}"),
            *(line.bound, f"{line.share_of_limit:.0%}"),
            f"{line.seconds / found.step_seconds:.1%}",
        )
    table.add_section()
    flops, n_bytes = (sum(getattr(line, x) for line in found.lines) for x in ("flops", "bytes"))
    for label, seconds, work in (
        ("sum of operations", found.sum_seconds, (f"{flops / 1e9:.3f}", f"{n_bytes / 1e6:.2f}")),
        ("whole step, measured", found.step_seconds, ("", "")),
        ("not in the operations", found.step_seconds - found.sum_seconds, ("", "")),
    ):
        share = f"{seconds / found.step_seconds:.1%}"
        table.add_row(label, f"{seconds * 1e3:.3f}", "", *work, "", "", share)
    if not console.is_terminal:
        console.width = WIDTH_OF_PIPES
    console.print(table)


def _limits(found: Profile) -> str:
    """What the limits are, in a line or two."""
    from bptool.training.setup import format_bytes

    sets = ", ".join(
        f"{format_bytes(rate)}/s at {format_bytes(size)}" for size, rate in found.bandwidths.items()
    )
    peak = f"{found.peak_flops / 1e9:.0f} GFLOP/s"
    return (
        f"{found.n_workers} workers, {found.engine} engine. Limits: {peak} of multiply-adds, or "
        f"reading and writing what a call meets, as measured for so many bytes a worker: {sets}. "
        "Operations are timed alone, through their layers in turn and called through Python, so "
        "their sum may lie on either side of the step."
    )
