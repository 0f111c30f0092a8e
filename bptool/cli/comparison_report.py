"""What a study says before it runs and when it has ended: its terms, its tables, its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from bptool.cli import wording
from bptool.cli.console import Console

if TYPE_CHECKING:
    from bptool.comparison import analysis
    from bptool.comparison.request import Request

WIDE = 200
"""Columns for a table in a file or a pipe."""
STYLES = {"better": "bold green", "worse": "yellow"}


def print_opening(console: Console, wanted: Request, n_slots: int) -> None:
    """Print what is compared, and on what terms."""
    from bptool.comparison.settings import choose, other_settings
    from bptool.comparison.terms import rules, space

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
            _say(console, f"{name}: searched in {space(plan.space(name))}")
            continue
        for workload in plan.workloads:
            choice = choose(name, None, plan.candidates[workload.name][name][0])
            settings = other_settings(choice)
            if settings:
                listed = ", ".join(f"{key} {value}" for key, value in settings.items())
                _say(console, f"{name} on {workload.name}, as configured: {listed}")


def print_report(
    console: Console,
    wanted: Request,
    found: analysis.Analysis,
    files: Mapping[str, str],
    quiet: bool = False,
) -> None:
    """Print how the tables are to be read, the tables, and where the rest is."""
    from bptool.comparison.terms import explanations
    from bptool.comparison.wording import columns, remarks

    plan = wanted.plan
    shown = [table for table in found.tables if table.rows]
    if shown and not quiet:
        console.print()
        for line in explanations(plan):
            _say(console, line)
    for table in shown:
        console.print()
        for title, names in columns(table, plan).items():
            _show(console, result_table(table, f"{table.workload}: {title}", names))
        for line in remarks(table):
            _say(console, line)
    if len(shown) > 1:
        console.print()
        _show(console, profile_table(found))
    if quiet or not shown:
        return
    console.print()
    if not plan.is_tuned:
        _say(
            console,
            "Verdicts are those at these learning rates, which were not searched here: --ruleset "
            "tuned searches them, and may change the order.",
        )
    if "widened" in files:
        words = ["bptool", "compare-optimizers", wording.near_path(files["widened"])]
        words += [word for name in wanted.folder.plugins for word in ("--plugin", name)]
        _say(
            console,
            "Some best settings lie at the edge of their search space. The same study over wider "
            f"ones: {' '.join(map(wording.argument, words))}",
        )
    for name in ("results", "report", "tables", "plots"):
        if name in files:
            _say(console, f"{name}: {wording.near_path(files[name])}")


def result_table(table: analysis.Table, title: str, columns: Sequence[str]) -> Table:
    """Some columns of what there is to say of a workload, best optimizer first."""
    from bptool.comparison.wording import cells

    grid = _grid(title, columns)
    for row in table.rows:
        values = cells(row, table)
        verdict = row.difference.verdict if row.difference else ""
        style = "red" if row.n_missing else STYLES.get(verdict, "")
        grid.add_row(
            *(
                Text(
                    values.get(column, wording.MISSING),
                    style=style if column in ("optimizer", "verdict") else "",
                )
                for column in columns
            )
        )
    return grid


def profile_table(found: analysis.Analysis) -> Table:
    """On how many workloads each optimizer is within tau of the fastest, best first."""
    from bptool.comparison.wording import profile_cells, profile_columns

    columns = profile_columns()
    title = "workloads on which an optimizer needs at most tau times the fewest steps"
    grid = _grid(title, columns)
    for profile in found.profiles:
        grid.add_row(*map(profile_cells(profile).get, columns))
    return grid


def _grid(title: str, columns: Sequence[str]) -> Table:
    from bptool.comparison.wording import TEXTS

    grid = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        title=title,
        title_justify="left",
    )
    for column in columns:
        # A narrow terminal breaks words, not numbers.
        is_text = column in TEXTS
        grid.add_column(
            column.replace("best of", "best\nof"),
            justify="left" if is_text else "right",
            no_wrap=not is_text,
            min_width=len("optimizer") if is_text else None,
            overflow="fold",
        )
    return grid


def _show(console: Console, grid: Table) -> None:
    """Print a table whole where there is no terminal whose width it would have to fit."""
    width = console.width
    if not console.is_terminal:
        console.width = WIDE
    console.print(grid)
    console.width = width


def _number(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=not console.is_terminal)
