"""``python -m benchmarks.performance_page``: writes the measured tables of docs/performance.md.

Each stands between two comments, ``<!-- budget A -->`` and ``<!-- end -->`` or the like, and is
replaced by what is measured here. ``budget`` is ``bptool profile`` of a workload, with lines that
are less than half a percent of the step as one; ``plans`` is a report of ``python -m
benchmarks.plan_accuracy --out``, named after ``--plans``. With names of workloads, only those are
written. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.plan_accuracy import text_of, workload
from bptool.files import write_text
from bptool.ops.cores import usable_cores
from bptool.training.machine import processor_name

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
WORKLOADS = ("A", "B", "C")
SMALL = 0.005
"""Share of the step below which lines are put together."""


def profile_of(name: str) -> dict[str, Any]:
    """``bptool profile`` of a workload."""
    case = workload(name)
    with tempfile.TemporaryDirectory() as folder:
        text, config = Path(folder) / "text.txt", Path(folder) / "config.yaml"
        write_text(text, text_of(case.vocab_size))
        values = {**case.values, "data": {"text": [str(text)]}}
        values["training"] = {"steps": 1, **case.values["training"]}
        write_text(config, json.dumps(values))
        command = [sys.executable, "-m", "bptool", "profile", str(config), "--json"]
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def budget(found: dict[str, Any]) -> str:
    """A profile as Markdown."""
    rows = [
        "| operation | ms | of step | GFLOP | bound by | of limit |",
        "|---|---|---|---|---|---|",
    ]
    step = found["step_seconds"]
    large = [line for line in found["lines"] if line["share_of_step"] >= SMALL]
    small = [line for line in found["lines"] if line["share_of_step"] < SMALL]
    for line in sorted(large, key=lambda line: -line["seconds"]):
        flops = f"{line['flops'] / 1e9:.3g}" if line["flops"] else ""
        shares = f"{line['bound']} | {line['share_of_limit']:.0%} |"
        ms = f"{line['seconds'] * 1e3:.3g}"
        rows.append(f"| {line['name']} | {ms} | {line['share_of_step']:.1%} | {flops} | {shares}")
    rest = sum(line["seconds"] for line in small)
    rows.append(f"| {len(small)} smaller | {rest * 1e3:.3g} | {rest / step:.1%} | | | |")
    ratio = found["sum_seconds"] / step
    rows.append(f"| *sum* | {found['sum_seconds'] * 1e3:.4g} | {ratio:.1%} | | | |")
    rows.append(f"| *whole step* | {step * 1e3:.4g} | 100 % | | | |")
    peak = f"{found['peak_flops'] / 1e9:.0f} GFLOP/s"
    bandwidths = {int(size): rate / 1e9 for size, rate in found["bandwidths"].items()}
    small_set, large_set = min(bandwidths), max(bandwidths)
    note = (
        f"{processor_name()}, {usable_cores()} cores; limits: {peak} of multiply-adds, "
        f"{bandwidths[small_set]:.0f} GB/s in the first cache, {bandwidths[large_set]:.0f} GB/s in "
        "memory."
    )
    return "\n".join([*rows, "", note])


def plans(report: Path) -> str:
    """The outcomes of ``benchmarks.plan_accuracy`` as Markdown."""
    rows = [
        "| | memory, MB | planned | error | ms a step | planned | error | others had |",
        "|---|---|---|---|---|---|---|---|",
    ]
    outcomes = json.loads(report.read_text(encoding="utf-8"))
    for one in outcomes:
        memory = one["planned_bytes"] / one["peak_bytes"] - 1
        seconds = one["planned_seconds"] / one["step_seconds"] - 1
        rows.append(
            f"| {one['name']} | {one['peak_bytes'] / 1e6:.0f} | {one['planned_bytes'] / 1e6:.0f} | "
            f"{memory:+.1%} | {one['step_seconds'] * 1e3:.4g} | "
            f"{one['planned_seconds'] * 1e3:.4g} | {seconds:+.0%} | {one['others_share']:.0%} |"
        )
    return "\n".join([*rows, "", f"{processor_name()}, {usable_cores()} cores."])


def replace(page: str, name: str, table: str) -> str:
    """The page with a table between its comments."""
    pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(\n<!-- end -->)", re.DOTALL)
    if not pattern.search(page):
        raise SystemExit(f"{PAGE} has no place for '{name}'")
    return pattern.sub(lambda found: found[1] + table + found[2], page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="A, B, C; all by default")
    parser.add_argument("--plans", type=Path, help="a report of benchmarks.plan_accuracy")
    arguments = parser.parse_args()
    names = arguments.names or ([] if arguments.plans else WORKLOADS)
    page = PAGE.read_text(encoding="utf-8")
    for name in names:
        page = replace(page, f"budget {name}", budget(profile_of(name)))
        print(f"profiled {name}")
    if arguments.plans:
        page = replace(page, "plans", plans(arguments.plans))
    write_text(PAGE, page)


if __name__ == "__main__":
    main()
