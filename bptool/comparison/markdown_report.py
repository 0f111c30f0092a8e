"""``tables.md``: the tables of a study for a page or an issue, without its plots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bptool.comparison.analysis import Analysis
from bptool.comparison.plan import Plan
from bptool.comparison.terms import explanations, rules
from bptool.comparison.wording import (
    MISSING,
    TEXTS,
    cells,
    columns,
    profile_cells,
    profile_columns,
    remarks,
)
from bptool.files import write_text


def write_tables(path: Path, title: str, plan: Plan, analysis: Analysis) -> None:
    """Write the page.

    Raises:
        OSError: it cannot be written.
    """
    parts = [f"# {title}", _list(rules(plan))]
    for table in analysis.tables:
        parts.append(f"## {table.workload}")
        rows = [cells(row, table) for row in table.rows]
        for heading, names in columns(table, plan).items():
            parts += [f"### {heading[:1].upper()}{heading[1:]}", _table(names, rows)]
        parts.append(_list(remarks(table)))
    if len(analysis.tables) > 1:
        profiles = [profile_cells(profile) for profile in analysis.profiles]
        parts += ["## Performance profile", _table(profile_columns(), profiles)]
    parts += ["## How to read this", _list(explanations(plan))]
    write_text(path, "\n\n".join(part for part in parts if part) + "\n")


def _list(lines: Iterator[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(names: Sequence[str], rows: Sequence[Mapping[str, str]]) -> str:
    rule = ["---" if name in TEXTS else "---:" for name in names]
    body = [[row.get(name, MISSING).replace("|", "\\|") for name in names] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in (list(names), rule, *body))
