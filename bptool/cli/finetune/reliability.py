"""The end of ``bptool finetune reward``: agreement with judgements that were held out."""

from __future__ import annotations

from pathlib import Path

from bptool.cli import terminal


def show_reliability(run: Path, quiet: bool, json: bool) -> None:
    """Print how a finished reward run does on its validation pairs."""
    from dataclasses import asdict

    from rich import box
    from rich.table import Table

    from bptool.cli.console import Console
    from bptool.cli.failures import say
    from bptool.training.reliability import PLOT, draw, judge_reward_run

    found = judge_reward_run(run)
    is_drawn = True
    try:
        draw(found, run / PLOT)
    except OSError as error:  # the figures are what matters
        is_drawn = False
        say(f"could not draw {run / PLOT}: {error}", kind="warning")
    if json:
        bins = [
            {k: None if v != v else v for k, v in b._asdict().items()}  # no NaN in JSON
            for b in found.bins
        ]
        event = {"event": "reliability", **asdict(found), "bins": bins}
        terminal.json(event)
        return
    low, high = found.interval
    terminal.line(
        f"agrees with {100 * found.accuracy:.1f} % of {found.n:,} held-out pairs "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f} %), "
        f"calibration error {found.error:.3f}"
    )
    if quiet:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("surer than", "pairs", "mean probability", "right"):
        table.add_column(title, justify="right")
    for b in found.bins:
        if b.n:
            row = f"{b.low:.2f}", f"{b.n:,}", f"{b.confidence:.3f}", f"{b.accuracy:.3f}"
            table.add_row(*row)
    Console().print(table)
    if is_drawn:
        terminal.line(f"plot: {run / PLOT}")
