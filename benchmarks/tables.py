"""Results as tables: for a terminal, and as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.results import Report, Result, Series, ratios

Grid = list[list[str]]
"""Rows of cells, the headings first."""


def middle(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def spread(values: Sequence[float], form: str) -> str:
    """``median (lowest - highest)``."""
    if len(values) == 1:
        return form.format(values[0])
    low, high = form.format(min(values)), form.format(max(values))
    return f"{form.format(middle(values))} ({low} - {high})"


def shares(result: Result, series: Series, rate: str, fact: str) -> list[float]:
    """How near each sample comes to a limit: what it did a second over what the machine can."""
    did = [result.facts[fact] / seconds for seconds in series.samples]
    return ratios(did, result.rates[rate])


def grid_of(result: Result) -> Grid:
    """A row for each series: median and spread, throughput, share of the limits, ratio."""
    scale, unit = {"seconds": (1e3, "ms"), "bytes": (1e-6, "MB")}[result.unit]
    tokens = result.facts.get("tokens")
    limits = [
        (f"of {name}", rate, fact)
        for name, rate, fact in (("FMA peak", "fma", "flops"), ("memory speed", "memory", "bytes"))
        if rate in result.rates and fact in result.facts
    ]
    compared = len(result.series) > 1
    headings = ["", unit, "min - max", *(["tokens/s"] if tokens else [])]
    headings += [heading for heading, _, _ in limits]
    counted = any(series.cores for series in result.series)
    headings += ["cores"] if counted else []
    found = [[*headings, *([f"over {result.series[0].name}'s"] if compared else [])]]
    for series in result.series:
        values = [scale * sample for sample in series.samples]
        row = [series.name, f"{middle(values):.4g}", f"{min(values):.4g} - {max(values):.4g}"]
        if tokens:
            row.append(f"{tokens / middle(series.samples):,.0f}")
        row += [f"{middle(shares(result, series, rate, fact)):.1%}" for _, rate, fact in limits]
        if counted:
            row.append(f"{middle(series.cores):.2f}" if series.cores else "")
        found.append([*row, *([spread(result.ratios(series), "{:.2f}")] if compared else [])])
    return found


def title_of(result: Result) -> str:
    """What the table of a result is called."""
    return f"{result.benchmark} {result.case}: {result.title}"


def notes_of(result: Result) -> Iterator[str]:
    """What a table cannot hold: how many samples, settings, limits, and what is missing."""
    yield f"{len(result.series[0].samples)} samples of each"
    units = {"fma": "GFLOP/s of multiply-adds", "memory": "GB/s read from memory"}
    for name, values in result.rates.items():
        yield f"limit: {spread([v / 1e9 for v in values], '{:.4g}')} {units[name]}"
    for series in result.series:
        if series.about:
            yield f"{series.name}: {series.about}"
    for name, why in result.left_out.items():
        yield f"left out: {name}, {why}"


def rate_grid(results: Sequence[Result]) -> Grid:
    """A row for each result with one of FLOPs: each series in GFLOP/s, and the first's ratios."""
    ours, *others = (series.name for series in results[0].series)
    found = [["", "size", ours, *others, "of FMA peak", *(f"{ours} / {o}" for o in others)]]
    for result in results:
        giga = result.facts["flops"] / 1e9
        share = middle(shares(result, result.series[0], "fma", "flops"))
        row = [result.case.partition(", ")[2], result.title.partition(",")[0]]
        row += [f"{giga / middle(series.samples):.1f}" for series in result.series]
        ratios_of = [f"{middle(result.ratios(series)):.2f}" for series in result.series[1:]]
        found.append([*row, f"{share:.0%}", *ratios_of])
    return found


def joined_grid(results: Sequence[Result]) -> Grid:
    """A row for each result of one series, with its case."""
    found = [["", "ms", "min - max", "of memory speed", "of what"]]
    for result in results:
        (series,) = result.series
        values = [1e3 * sample for sample in series.samples]
        share = ""
        if "bytes" in result.facts:
            share = f"{middle(shares(result, series, 'memory', 'bytes')):.0%}"
        ends = f"{min(values):.4g} - {max(values):.4g}"
        found.append([result.case, f"{middle(values):.4g}", ends, share, result.title])
    return found


def show(console: Console, results: Sequence[Result]) -> None:
    """Print results that belong together: a table of all, or of each where it has several rows."""
    first = results[0]
    if first.benchmark == "matmul":
        title = f"matmul {first.case.partition(',')[0]}, GFLOP/s"
        show_grid(console, title, rate_grid(results), first.title.partition(", ")[2])
    elif all(len(result.series) == 1 and "memory" in result.rates for result in results):
        show_grid(console, first.benchmark, joined_grid(results))
    else:
        for result in results:
            notes = "\n".join(notes_of(result))
            show_grid(console, title_of(result), grid_of(result), notes)


def show_grid(console: Console, title: str, grid: Grid, caption: str | None = None) -> None:
    """Print a grid as a rich table."""
    headings, *rows = grid
    table = Table(title=title, caption=caption, caption_justify="left")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def markdown(grid: Grid) -> str:
    """A grid as a Markdown table."""
    headings, *rows = grid
    rule = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, rule, *rows))


PEERS = {
    "pytorch": "PyTorch, eager",
    "pytorch-compile": "torch.compile",
    "jax": "JAX, jitted",
}


def summary(found: Report) -> Grid:
    """One row for each training workload: speed, times the speed of each peer, share of limits."""
    results = [result for result in found.results if result.benchmark == "train"]
    there = [name for name in PEERS if any(result.find(name) for result in results)]
    grid = [["workload", "ms a step", "tokens/s", *(f"times {PEERS[name]}" for name in there)]]
    grid[0] += ["of FMA peak", "its products alone", "OpenBLAS's", "MKL's"]
    for result in results:
        ours = result.series[0]
        milliseconds = [1e3 * seconds for seconds in ours.samples]
        row = [result.case, spread(milliseconds, "{:.4g}")]
        row.append(f"{result.facts['tokens'] / middle(ours.samples):,.0f}")
        for name in there:
            peer = result.find(name)
            row.append(spread(result.ratios(peer), "{:.2f}") if peer else "")
        for name in ("bptool", "products, tiled", "products, blas", "products, mkl"):
            limit = result.find(name)
            if limit is None or "fma" not in result.rates:
                row.append("")
            else:
                row.append(f"{middle(shares(result, limit, 'fma', 'flops')):.0%}")
        grid.append(row)
    return grid


def details(found: Report) -> str:
    """Every table of a report as Markdown."""
    parts = []
    for result in found.results:
        notes = "".join(f"\n- {note}" for note in notes_of(result))
        parts.append(f"### {title_of(result)}\n\n{markdown(grid_of(result))}\n{notes}\n")
    return "\n".join(parts)


def conditions(found: Report) -> str:
    """One line: where, when and with what versions."""
    machine = found.machine
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    return (
        f"{found.threads} threads on {machine['processor']} ({machine['llvm_cpu']}, "
        f"{machine['vector_width_bits']}-bit vectors, {machine['cores']} cores), "
        f"{found.date[:10]}, commit {found.commit[:10]}{' and changes' if found.changed else ''}, "
        f"{found.seconds / 60:.0f} minutes; "
        f"{versions}"
    )
