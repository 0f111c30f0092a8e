"""What a study says before it runs and when it has ended: its terms, its tables, its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bptool.cli import wording

if TYPE_CHECKING:
    from bptool.cli.comparison_request import Request
    from bptool.comparison import analysis
    from bptool.comparison.plan import Plan

LOSSES = ("optimizer", "final loss", "difference", "p", "verdict")
COSTS = ("optimizer", "rate", "steps", "tokens", "seconds", "ms/step", "state", "tuning")
STYLES = {"better": "bold green", "worse": "yellow"}


def print_opening(console: Console, wanted: Request, n_slots: int) -> None:
    """Print what is compared, and on what terms."""
    from bptool.comparison.settings import choose, other_settings
    from bptool.comparison.wording import rules
    from bptool.config.dump import inline

    plan = wanted.plan
    study = plan.study
    done = f", {len(wanted.records)} of them done before" if wanted.resumed else ""
    _say(
        console,
        f"{wanted.source}: {_number(plan.n_trials, 'trial')} of "
        f"{_number(len(study.optimizers), 'optimizer')} on "
        f"{_number(len(plan.workloads), 'workload')}, {n_slots} at once{done}",
    )
    for workload in plan.workloads:
        size = wanted.ground.sizes[workload.name]
        _say(
            console,
            f"{workload.name}: {workload.config.model.name} with "
            f"{wording.count(size.n_parameters)} parameters, "
            f"{wording.count(size.n_train_tokens)} tokens to train on, "
            f"{wording.count(size.tokens_per_step)} a step, "
            f"{_number(size.n_workers, 'worker')} a trial",
        )
        for key, (old, new) in wanted.ground.scaled.get(workload.name, {}).items():
            _say(console, f"{workload.name}: {key}: {old:,} -> {new:,}, in proportion to the steps")
    for line in rules(plan):
        _say(console, line)
    for name in study.optimizers:
        if plan.is_tuned:
            ranges = {
                key: where if isinstance(where, list) else where.model_dump()
                for key, where in plan.space(name).items()
            }
            _say(console, f"{name}: searched in {inline(ranges)}")
            continue
        for workload in plan.workloads:
            choice = choose(name, None, plan.candidates[workload.name][name][0])
            settings = other_settings(choice)
            if settings:
                listed = ", ".join(f"{key} {value}" for key, value in settings.items())
                _say(console, f"{name} on {workload.name}, as configured: {listed}")


def print_report(
    console: Console,
    plan: Plan,
    found: analysis.Analysis,
    files: Mapping[str, str],
    quiet: bool = False,
) -> None:
    """Print the tables, how to read them, and where the rest is."""
    from bptool.comparison.wording import explanations

    shown = [table for table in found.tables if table.rows]
    for table in shown:
        console.print()
        console.print(result_table(table, LOSSES))
        console.print(result_table(table, COSTS))
        for note in table.notes:
            _say(console, note)
    if quiet or not shown:
        return
    for line in explanations(plan):
        _say(console, line)
    if not plan.is_tuned:
        _say(
            console,
            "Learning rates are given, not tuned: --ruleset tuned searches them, and may change "
            "the order.",
        )
    for name, path in files.items():
        _say(console, f"{name}: {wording.near_path(path)}")


def result_table(table: analysis.Table, columns: Sequence[str]) -> Table:
    """Some columns of a workload's table, best optimizer first."""
    from bptool.comparison.wording import cells

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=_title(table, columns))
    for column in columns:
        text = column in ("optimizer", "verdict", "tuning")
        grid.add_column(column, justify="left" if text else "right", no_wrap=True)
    for row in table.rows:
        values = cells(row, table)
        verdict = row.difference.verdict if row.difference else ""
        style = "red" if row.n_missing else STYLES.get(verdict, "")
        grid.add_row(
            *(
                Text(values[column], style=style if column in ("optimizer", "verdict") else "")
                for column in columns
            )
        )
    return grid


def _title(table: analysis.Table, columns: Sequence[str]) -> str:
    from bptool.comparison.wording import number

    if columns is LOSSES:
        margin = number(table.margin)
        return f"{table.workload}: loss; difference from {table.reference}; margin ±{margin}"
    return f"{table.workload}: cost; steps to the target loss {number(table.target)}"


def _number(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=not console.is_terminal)
