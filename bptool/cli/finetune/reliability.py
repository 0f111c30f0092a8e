"""The end of training on pairs: agreement with judgements that were held out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bptool.cli import terminal

if TYPE_CHECKING:
    from bptool.training.baselines import Share
    from bptool.training.reliability import Reliability


def show_reliability(run: Path, quiet: bool, json: bool) -> None:
    """Print how a finished run does on pairs that were held out."""
    from dataclasses import asdict

    from bptool.cli.failures import say
    from bptool.errors import UserError
    from bptool.training.reliability import PLOT, draw, judge_pairs_run

    try:
        found = judge_pairs_run(run)
    except UserError as error:  # the run is trained and saved, whatever has become of others
        say(f"{run} is not judged on held-out pairs: {error}", kind="warning")
        return
    plot: Path | None = run / PLOT
    try:
        draw(found, run / PLOT)
    except OSError as error:  # the figures are what matters
        plot = None
        say(f"could not draw {run / PLOT}: {error}", kind="warning")
    if json:
        bins = [
            {k: None if v != v else v for k, v in b._asdict().items()}  # no NaN in JSON
            for b in found.bins
        ]
        event = {"event": "reliability", **asdict(found), "bins": bins}
        terminal.json(event)
        return
    if not quiet:
        _print_tables(found)
        if plot is not None:
            terminal.line(f"plot: {plot}")
    terminal.line(sentence(found))


def sentence(found: Reliability) -> str:
    """How often the model agrees, and what that is worth."""
    step = "the model before training" if found.step == 0 else f"the model of step {found.step:,}"
    text = (
        f"{step} agrees with {_percent(found.accuracy)} of {found.n:,} held-out pairs "
        f"(95 % interval {_interval(found.interval)}), calibration error {found.error:.3f}"
    )
    if found.is_guessing:
        text += "; this cannot be told from guessing (50 %)"
    elif found.accuracy < 0.5:
        text += "; this is worse than guessing (50 %)"
    rules = [b for b in found.baselines if b.name != "chance"]
    better = [b for b in rules if b.share >= found.accuracy]
    near = [b for b in rules if found.interval[0] <= b.share < found.accuracy]
    if better:
        text += f"; choosing {_names(better)} is as good or better"
    if near:
        text += f"; it is not clearly better than choosing {_names(near)}"
    if found.chosen_on_them:
        text += "; the checkpoint was chosen on these same pairs, so that others may agree less"
    return text[0].upper() + text[1:]


def _print_tables(found: Reliability) -> None:
    from rich import box
    from rich.table import Table

    from bptool.cli.console import Console

    shares = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shares.add_column("chosen answer preferred by")
    for title in ("of pairs", "95 % interval"):
        shares.add_column(title, justify="right")
    shares.add_row("the trained model", _percent(found.accuracy), _interval(found.interval))
    for one in found.baselines:
        between = "" if one.name == "chance" else _interval(one.interval)
        shares.add_row(one.name, _percent(one.share), between)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("surer than", "pairs", "mean probability", "right"):
        table.add_column(title, justify="right")
    for b in found.bins:
        if b.n:
            row = f"{b.low:.2f}", f"{b.n:,}", f"{b.confidence:.3f}", f"{b.accuracy:.3f}"
            table.add_row(*row)
    console = Console()
    console.print(shares)
    console.print(table)


def _names(baselines: Sequence[Share]) -> str:
    return " or ".join(f"{b.name} ({_percent(b.share)})" for b in baselines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(ends: tuple[float, float]) -> str:
    return f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f} %"
