"""What a study says before it runs and when it has ended: its terms, its table, its files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bptool.cli import wording

if TYPE_CHECKING:
    from bptool.comparison.events import StudyStarted
    from bptool.comparison.ranking import Row, Spread
    from bptool.comparison.results import ResultsFolder
    from bptool.comparison.trial import Outcome, Trial

HUGE = 1e4
"""From here a loss is written with an exponent."""


def print_opening(
    console: Console, started: StudyStarted, source: Path, scaled: Mapping[str, tuple[int, int]]
) -> None:
    """Print what is compared, and on what terms."""
    from bptool.comparison.settings import other_settings

    config = started.trials[0].config
    names = _names(started.trials)
    seeds = sorted({trial.seed for trial in started.trials})
    last = f" to {seeds[-1]}" if len(seeds) > 1 else ""
    workers = "1 worker" if started.n_workers == 1 else f"{started.n_workers} workers"
    _say(
        console,
        f"{source}: {config.model.name} with {wording.count(started.n_parameters)} parameters, "
        f"{wording.count(started.n_train_tokens)} tokens to train on, {workers}",
    )
    _say(
        console,
        f"{len(started.trials)} trials: {_number(len(names), 'optimizer')}, "
        f"{_number(len(seeds), 'seed')} ({seeds[0]}{last}), {config.training.steps:,} steps of "
        f"{wording.count(started.tokens_per_step)} tokens; within a seed the same initial "
        "weights and batches",
    )
    for key, (old, new) in scaled.items():
        _say(console, f"{key}: {old:,} -> {new:,}, in proportion to the steps")
    for trial in started.trials[: len(names)]:
        settings = other_settings(trial.config.optimizer)
        if settings:
            listed = ", ".join(f"{key} {value}" for key, value in settings.items())
            _say(console, f"{trial.optimizer} as configured: {listed}")


def print_report(
    console: Console,
    trials: Sequence[Trial],
    rows: Sequence[Row],
    outcomes: Sequence[Outcome],
    folder: ResultsFolder,
    files: Mapping[str, str],
    quiet: bool = False,
) -> None:
    """Print the table, how to read it, and where the rest is."""
    if not rows:
        return
    n_seeds = max(row.n_trials for row in rows)
    console.print()
    console.print(result_table(rows))
    if quiet:
        return
    config = trials[0].config
    spread = f", mean ± standard deviation over {n_seeds} seeds" if n_seeds > 1 else ""
    capped = config.training.eval_tokens
    on = f" on at most {capped:,} tokens" if capped else " on the whole split"
    _say(console, f"Losses: validation, nats per token{on}{spread}; best: lowest evaluation.")
    _say(
        console,
        "Learning rates are given, not tuned: others (--learning-rate NAME=VALUE) may change "
        "the order.",
    )
    for name, path in files.items():
        _say(console, f"{name}: {wording.near_path(path)}")
    shown = next(o.trial for o in outcomes if o.trial.optimizer == rows[0].optimizer)
    _say(console, f"replay one: {folder.replay_command(shown)}")


def result_table(rows: Sequence[Row]) -> Table:
    """The table of a study, best first."""
    from bptool.training.setup import format_bytes

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("optimizer", no_wrap=True)
    for heading in ("rate", "final loss", "best loss", "ms/step", "state"):
        table.add_column(heading, justify="right", no_wrap=True)
    best = next((row for row in rows if row.final is not None), None)
    for row in rows:
        style = "bold green" if row is best else "red" if row.n_diverged else ""
        table.add_row(
            Text(row.optimizer, style=style),
            f"{row.learning_rate:g}",
            Text(final_loss(row), style=style),
            loss(row.best),
            wording.decimal(row.step_seconds * 1e3, 2),
            format_bytes(row.state_bytes),
        )
    return table


def final_loss(row: Row) -> str:
    """``2.3412 ± 0.0031``, or how many trials diverged."""
    if row.n_diverged:
        return f"diverged, {row.n_diverged} of {row.n_trials}"
    return loss(row.final)


def loss(found: Spread | None) -> str:
    """A mean with its deviation where there is one; a dash for none."""
    if found is None:
        return wording.MISSING
    deviation = "" if math.isnan(found.deviation) else f" ± {_short(found.deviation)}"
    return _short(found.mean) + deviation


def _short(value: float) -> str:
    return f"{value:.3e}" if value >= HUGE else wording.decimal(value)


def _names(trials: Sequence[Trial]) -> list[str]:
    return list(dict.fromkeys(trial.optimizer for trial in trials))


def _number(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=not console.is_terminal)
