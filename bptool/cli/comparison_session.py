"""What ``bptool compare-optimizers`` does: run a study under signals, then report it."""

from __future__ import annotations

import dataclasses
import json as json_module
import sys
from typing import TYPE_CHECKING, Any

from bptool.cli import wording
from bptool.cli.failures import Stopped, say
from bptool.errors import UserError

if TYPE_CHECKING:
    from bptool.cli.comparison_request import Request
    from bptool.comparison.analysis import Analysis, Row
    from bptool.comparison.executors import Executor


def compare(wanted: Request, *, mpi: bool, quiet: bool, json: bool) -> None:
    """Run the study; raises Stopped where the user stopped it before its last trial."""
    if quiet and json:
        raise UserError("--quiet and --json exclude each other; choose one")
    from rich.console import Console

    from bptool.cli.comparison_display import listener_for
    from bptool.cli.comparison_report import print_opening, print_report
    from bptool.cli.signals import stopping
    from bptool.comparison.analysis import analyse
    from bptool.comparison.study import Study

    console = Console()
    executor = _executor(wanted, mpi)
    if not wanted.resumed:
        wanted.folder.create(wanted.plan, wanted.ground.about)
    study = Study(
        wanted.plan, wanted.ground, wanted.folder, executor, wanted.records, wanted.timings
    )
    for note in wanted.notes:
        say(f"not as when the study began: {note}; trials to come may differ in their last bits",
            kind="warning")  # fmt: skip
    if not (quiet or json):
        print_opening(console, wanted, executor.n_slots)
    with listener_for(console, silent=quiet or json) as listener, stopping(study.request_stop):
        stopped = study.run([listener])
    analysis = analyse(wanted.plan, study.records, study.timings)
    files = {"results": str(wanted.folder.results), **_write(wanted, analysis)}
    if json:
        _print_json(wanted, analysis, len(study.records), stopped, files)
    else:
        print_report(console, wanted.plan, analysis, files, quiet)
    if stopped:
        n = sum(record.status != "failed" for record in study.records)
        sys.stderr.write(
            f"stopped: {n} of {wanted.plan.n_trials} trials are done; go on with: "
            f"bptool compare-optimizers --resume {wording.argument(str(wanted.folder.path))}\n"
        )
        raise Stopped


def _executor(wanted: Request, mpi: bool) -> Executor:
    from bptool.comparison.executors import MPIExecutor, ProcessExecutor
    from bptool.comparison.study import n_processes

    return MPIExecutor() if mpi else ProcessExecutor(n_processes(wanted.plan))


def _write(wanted: Request, analysis: Analysis) -> dict[str, str]:
    """Write the page and its plots; one that fails must not cost the study."""
    from bptool.comparison.html_report import write_report
    from bptool.comparison.plots import plot_all

    if not any(table.rows for table in analysis.tables):
        return {}
    folder, title = wanted.folder, f"Optimizers compared: {wanted.folder.path.name}"
    try:
        plots = plot_all(analysis, folder.path)
        write_report(folder.report, title, wanted.plan, wanted.ground.about, analysis, plots)
    except OSError as error:
        say(f"could not write the report: {error}", kind="warning")
        return {}
    return {"report": str(folder.report), "plots": str(folder.path / "*.png")}


def _print_json(
    wanted: Request, analysis: Analysis, n_done: int, interrupted: bool, files: dict[str, str]
) -> None:
    from bptool.comparison.records import finite

    study = wanted.plan.study
    report: dict[str, Any] = {
        "ruleset": study.ruleset,
        "reference": study.reference,
        "n_trials": wanted.plan.n_trials,
        "n_done": n_done,
        "interrupted": interrupted,
        "workloads": [
            {
                "workload": table.workload,
                "target": table.target,
                "margin": table.margin,
                "notes": table.notes,
                "optimizers": [_plain(row) for row in table.rows],
            }
            for table in analysis.tables
        ],
        "profiles": [dataclasses.asdict(profile) for profile in analysis.profiles],
        "files": files,
    }
    sys.stdout.write(json_module.dumps(finite(report), ensure_ascii=False) + "\n")


def _plain(row: Row) -> dict[str, Any]:
    """A row without its runs, which ``results.jsonl`` has."""
    tuning = row.tuning
    values = dataclasses.asdict(dataclasses.replace(row, runs=(), tuning=None))
    del values["runs"]
    values["seeds"] = [run.seed for run in row.runs]
    if tuning is not None:
        plain = dataclasses.asdict(dataclasses.replace(tuning, edges={}))
        edges = {key: wider.model_dump() for key, wider in tuning.edges.items()}
        values["tuning"] = {**plain, "edges": edges}
    return values
