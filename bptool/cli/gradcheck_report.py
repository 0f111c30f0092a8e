"""The tables of ``bptool gradcheck``."""

from __future__ import annotations

import math
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bptool.cli.gradcheck_session import Findings

MAX_FAILURES = 12
PLAIN_WIDTH = 132
"""Of the tables where the output is no terminal."""


def show(found: Findings) -> None:
    """Print a table of tensors for the operations and one for the model, then the verdict."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    if found.operations:
        console.print(_operations(found))
    if found.model is not None:
        console.print(_model(found))
        for line in _about_model(found):
            console.print(line, highlight=False)
    failures = found.failures()
    for line in failures[:MAX_FAILURES]:
        console.print(Text(line, "red"))
    if len(failures) > MAX_FAILURES:
        console.print(f"... and {len(failures) - MAX_FAILURES} more (--json gives all)")
    console.print(_verdict(found))


def _table(title: str, first: tuple[str, ...], last: tuple[str, ...] = ()) -> Table:
    table = Table(title=title, title_justify="left", pad_edge=False, box=box.SIMPLE_HEAD)
    for heading in first:
        table.add_column(heading, no_wrap=True)
    right = ("gradient norm", "worst probe", "difference", "gradient", "error", "Taylor", *last)
    for heading in right:
        left = heading == "worst probe"
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    table.add_column("", no_wrap=True)
    return table


def _cells(tensor: Any) -> tuple[str, ...]:
    """Cells from the norm to the Taylor slope; the error as a share of what is accepted."""
    worst, taylor = tensor.worst_element or tensor.worst, tensor.taylor
    if worst is None or taylor is None:
        return (f"{tensor.gradient_norm:.2e}", *("-",) * 5)
    largest = max(p.ratio for p in (tensor.worst, worst) if p is not None)
    numbers = (f"{worst.finite_difference:.6e}", f"{worst.gradient:.6e}", f"{largest:.1e}")
    slope = taylor.verdict if taylor.slope is None else f"{taylor.slope:.3f}"
    return (f"{tensor.gradient_norm:.2e}", worst.where, *numbers, slope)


def _mark(ok: bool, note: str = "") -> Text:
    return Text(note or "ok", "green") if ok else Text("WRONG", "bold red")


def _operations(found: Findings) -> Table:
    table = _table("Operations, each alone", ("operation", "input"))
    for report in found.operations:
        for i, tensor in enumerate(report.tensors):
            name = report.name if i == 0 else ""
            table.add_row(name, tensor.name, *_cells(tensor), _mark(tensor.ok and report.ok))
    return table


def _model(found: Findings) -> Table:
    assert found.model is not None
    facts = found.facts
    title = f"{facts['name']}, {facts['n_parameters']:,} parameters"
    table = _table(title, ("tensor", "shape"), ("float32",))
    errors: dict[str, list[Any]] = {}
    for path in found.training:
        for agreement in path.tensors:
            errors.setdefault(agreement.name, []).append(agreement)
    for tensor in found.model.tensors:
        paths = errors.get(tensor.name, [])
        trained = f"{max(a.error for a in paths):.1e}" if paths else "-"
        ok = tensor.ok and all(a.ok for a in paths)
        shape = " x ".join(map(str, tensor.shape))
        table.add_row(tensor.name, shape, *_cells(tensor), trained, _mark(ok, tensor.note))
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
