"""``report.html``: the analysis of a study on one page that needs no network."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bptool.comparison.analysis import Analysis, Row, Table
from bptool.comparison.plan import Plan
from bptool.comparison.terms import drawn_from, explanations, rules
from bptool.comparison.wording import (
    MISSING,
    TEXTS,
    cells,
    columns,
    profile_cells,
    profile_columns,
    remarks,
)
from bptool.config.dump import inline
from bptool.files import write_text

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em;
       color: #1a1a1a; background: #fff; }
table { border-collapse: collapse; margin: 1em 0; display: block; overflow-x: auto; }
th, td { padding: .25em .7em; text-align: right; white-space: nowrap;
         border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child, .text { text-align: left; }
tr.better td.verdict { color: #00664d; font-weight: 600; }
tr.worse td.verdict { color: #a33c00; font-weight: 600; }
tr.reference { background: #f3f6fa; }
img { max-width: 100%; }
code { font-size: 90%; white-space: pre-wrap; overflow-wrap: anywhere; }
.note { border-left: 4px solid #d55e00; padding-left: .8em; }
"""


def write_report(
    path: Path,
    title: str,
    plan: Plan,
    about: Mapping[str, Any],
    analysis: Analysis,
    plots: Mapping[str, Path],
) -> None:
    """Write the page with its plots inside.

    Args:
        about: the study's header. plots: files by title, as ``plots.plot_all`` returns them.

    Raises:
        OSError: a plot cannot be read, or the page not written.
    """
    body = [f"<h1>{_text(title)}</h1>", _list(rules(plan))]
    for table in analysis.tables:
        body.append(f"<h2>{_text(table.workload)}</h2>")
        body += _tables(table, plan)
        body += [f"<p class=note>{_text(line)}</p>" for line in remarks(table)]
        ending = f": {table.workload}"
        body += [_figure(t.removesuffix(ending), p) for t, p in plots.items() if t.endswith(ending)]
    rest = {t: p for t, p in plots.items() if not _belongs(t, analysis)}
    if len(analysis.tables) > 1:
        body += ["<h2>Over the workloads</h2>", _profiles(analysis)]
    body += [_figure(name, file) for name, file in rest.items()]
    body += ["<h2>How to read this</h2>", _list(explanations(plan))]
    if plan.is_tuned:
        body += ["<h2>Search spaces</h2>", _spaces(plan)]
    body += [
        "<h2>Chosen settings</h2>",
        _settings(analysis),
        "<h2>Where it ran</h2>",
        _where(about),
    ]
    head = f'<meta charset="utf-8"><title>{_text(title)}</title><style>{STYLE}</style>'
    head += '<meta name="viewport" content="width=device-width">'
    page = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n'
    write_text(path, page + "\n".join(body) + "\n</body></html>\n")


def _belongs(title: str, analysis: Analysis) -> bool:
    return any(title.endswith(f": {table.workload}") for table in analysis.tables)


def _text(value: object) -> str:
    return html.escape(str(value))


def _list(lines: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{_text(line)}</li>" for line in lines) + "</ul>"


def _rows(head: Sequence[str], body: Iterable[str]) -> str:
    texts = [" class=text" if name in TEXTS else "" for name in head]
    top = "".join(f"<th{kind}>{_text(name)}</th>" for kind, name in zip(texts, head, strict=True))
    return f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _tables(table: Table, plan: Plan) -> Iterator[str]:
    """A workload's tables, each under its title."""
    rows = [(_kind(row, table), cells(row, table)) for row in table.rows]
    for title, names in columns(table, plan).items():
        body = [
            f"<tr class={kind}>" + "".join(map(_cell, names, map(values.get, names))) + "</tr>"
            for kind, values in rows
        ]
        yield f"<h3>{_text(title[:1].upper() + title[1:])}</h3>{_rows(names, body)}"


def _cell(name: str, text: str | None) -> str:
    kinds = [kind for kind, is_so in (("text", name in TEXTS), (name, name == "verdict")) if is_so]
    shown = _text(MISSING if text is None else text)
    return f'<td class="{" ".join(kinds)}">{shown}</td>' if kinds else f"<td>{shown}</td>"


def _profiles(analysis: Analysis) -> str:
    names = profile_columns()
    body = [
        "<tr>" + "".join(map(_cell, names, profile_cells(profile).values())) + "</tr>"
        for profile in analysis.profiles
    ]
    return _rows(names, body)


def _kind(row: Row, table: Table) -> str:
    if row.optimizer == table.reference:
        return "reference"
    return row.difference.verdict if row.difference else "unknown"


def _figure(title: str, path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<h3>{_text(title)}</h3><img alt="{_text(title)}" src="data:image/png;base64,{data}">'


def _spaces(plan: Plan) -> str:
    body = []
    for name in plan.study.optimizers:
        for key, where in plan.space(name).items():
            said = map(_text, (name, key, drawn_from(where)))
            body.append("<tr>" + "".join(f"<td class=text>{cell}</td>" for cell in said) + "</tr>")
    return _rows(("optimizer", "setting", "drawn from"), body)


def _settings(analysis: Analysis) -> str:
    body = [
        f"<tr><td>{_text(table.workload)}</td><td>{_text(row.optimizer)}</td>"
        f"<td class=text>{row.rate_source}</td>"
        f"<td><code>{_text(inline(_short(row.settings)))}</code></td></tr>"
        for table in analysis.tables
        for row in table.rows
    ]
    return _rows(("workload", "optimizer", "learning rate", "settings"), body)


def _short(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != "name"}


def _where(about: Mapping[str, Any]) -> str:
    body = []
    for workload, manifest in about["manifests"].items():
        for key in ("versions", "machine", "engine", "workers", "n_parameters", "data"):
            value = manifest.get(key)
            body.append(
                f"<tr><td>{_text(workload)}</td><td>{_text(key)}</td>"
                f"<td><code>{_text(inline(value))}</code></td></tr>"
            )
    return _rows(("workload", "what", "value"), body)
