"""The tables of ``bptool gradcheck``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from bptool.cli.console import Console
from bptool.gradient_check.session import Findings
from bptool.gradient_check.training import TRAINING_BATCH

MAX_FAILURES = 12
PLAIN_WIDTH = 132
"""Of the tables where the output is no terminal."""


def show(found: Findings) -> None:
    """Print a table of tensors for the operations and one for the model, then the verdict."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    if found.operations:
        console.print(_operations(found, console.width))
    if found.model is not None:
        console.print(_model(found, console.width))
        for line in _about_model(found):
            console.print(line, highlight=False)
    failures = found.failures()
    for line in failures[:MAX_FAILURES]:
        console.print(Text(line, "red"))
    if len(failures) > MAX_FAILURES:
        console.print(f"... and {len(failures) - MAX_FAILURES} more (--json gives all)")
    console.print(_verdict(found))


@dataclass(frozen=True)
class Column:
    """A heading and what stands under it for a tensor; narrow terminals go without some."""

    heading: str
    cell: Callable[[Any], str]
    left: bool = False
    needs_width: int = 0


def _worst(tensor: Any, number: Callable[[Any], str]) -> str:
    probe = tensor.worst_element or tensor.worst
    return "-" if probe is None else number(probe)


def _error(tensor: Any) -> str:
    return "-" if tensor.worst is None else f"{tensor.worst.ratio:.1e}"


def _slope(tensor: Any) -> str:
    if tensor.taylor is None:
        return "-"
    return tensor.taylor.verdict if tensor.taylor.slope is None else f"{tensor.taylor.slope:.3f}"


COLUMNS = (
    Column("norm", lambda t: f"{t.gradient_norm:.1e}", needs_width=100),
    Column("worst element", lambda t: _worst(t, lambda p: p.where), left=True),
    Column(
        "difference", lambda t: _worst(t, lambda p: f"{p.finite_difference:.4e}"), needs_width=116
    ),
    Column("gradient", lambda t: _worst(t, lambda p: f"{p.gradient:.4e}"), needs_width=116),
    Column("error", _error),
    Column("Taylor", _slope),
)
"""The error is that of the worst probe, directions included, as a share of the tolerance."""


def _columns(width: int) -> list[Column]:
    return [column for column in COLUMNS if column.needs_width <= width]


def _table(title: str, first: Sequence[str], columns: Sequence[Column], *last: str) -> Table:
    table = Table(title=title, title_justify="left", pad_edge=False, box=box.SIMPLE_HEAD)
    for heading in first:
        table.add_column(heading, no_wrap=True)
    for column in columns:
        table.add_column(column.heading, justify="left" if column.left else "right", no_wrap=True)
    for heading in last:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, min_width=len("WRONG"))
    return table


def _mark(ok: bool, note: str = "") -> Text:
    return Text(note or "ok", "green") if ok else Text("WRONG", "bold red")


def _operations(found: Findings, width: int) -> Table:
    columns = _columns(width)
    table = _table("Operations, each alone", ("operation", "input"), columns)
    for report in found.operations:
        for i, tensor in enumerate(report.tensors):
            cells = (column.cell(tensor) for column in columns)
            name = report.name if i == 0 else ""
            table.add_row(name, tensor.name, *cells, _mark(tensor.ok and not report.problems))
    return table


def _model(found: Findings, width: int) -> Table:
    assert found.model is not None
    columns = _columns(width)
    title = f"{found.facts['name']}, {found.facts['n_parameters']:,} parameters"
    first = ("tensor", "shape") if width >= 100 else ("tensor",)
    table = _table(title, first, columns, "float32")
    errors: dict[str, list[Any]] = {}
    for path in found.training:
        for agreement in path.tensors:
            errors.setdefault(agreement.name, []).append(agreement)
    for tensor in found.model.tensors:
        paths = errors.get(tensor.name, [])
        trained = f"{max(a.error for a in paths):.1e}" if paths else "-"
        ok = tensor.ok and all(a.ok for a in paths)
        names = (tensor.name, " x ".join(map(str, tensor.shape)))[: len(first)]
        cells = (column.cell(tensor) for column in columns)
        table.add_row(*names, *cells, trained, _mark(ok, tensor.note))
    return table


def _about_model(found: Findings) -> list[str]:
    """What the columns stand for and what was stepped around, a line each."""
    assert found.model is not None
    facts, tensors = found.facts, found.model.tensors
    probes = sum(t.n_elements_checked + t.n_directions for t in tensors)
    lines = [
        f"{probes} derivatives at float64 on {facts['n_sequences']} sequences of "
        f"{facts['n_time']} tokens, dropout masks held; error: share of the tolerance.",
        f"float32: the gradient as trained ({facts['engine']}, {facts['n_workers']} workers), "
        "L2 error against the checked one; at most 1e-05.",
    ]
    kinks: dict[str, int] = {}
    for tensor in tensors:
        for name, n in tensor.kinks.items():
            kinks[name] = kinks.get(name, 0) + n
    if kinks:
        named = ", ".join(f"{name} ({n})" for name, n in sorted(kinks.items()))
        lines.append(f"Kinks stepped around, and for how many derivatives: {named}.")
    left_out = sum(t.n_left_out for t in tensors)
    if left_out:
        lines.append(
            f"{left_out} derivatives had no usable step; others were drawn in their place."
        )
    floor = sum(t.taylor.n_under_floor for t in tensors if t.taylor is not None)
    lines.append(f"Taylor points left out under the rounding floor: {floor}.")
    lines += [f"{path.name}: {path.note}" for path in found.training if path.note]
    if TRAINING_BATCH not in {path.name for path in found.training}:
        lines.append(
            "Not compared on a training batch: each has a ReLU input too near its kink for float32."
        )
    return lines


def _verdict(found: Findings) -> Text:
    tensors = [t for r in found.reports for t in r.tensors]
    if not found.ok:
        wrong = sum(not t.ok for t in tensors)
        paths = sum(not a.ok for p in found.training for a in p.tensors)
        text = f"{wrong} of {len(tensors)} gradients are wrong"
        return Text(f"{text}; {paths} as trained." if found.training else f"{text}.", "bold red")
    worst = max((p.ratio for t in tensors if (p := t.worst) is not None), default=math.nan)
    text = f"All {len(tensors)} gradients agree: the worst error is {worst:.1e} of the tolerance"
    if found.training:
        largest = max(path.worst.error for path in found.training)
        text += f", and training's own gradient is within {largest:.1e}"
    return Text(f"{text}.", "bold green")
