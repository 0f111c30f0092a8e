"""What ``bptool compare-optimizers`` does: run a study under signals, then report it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bptool.cli import terminal, wording
from bptool.cli.failures import Stopped, say
from bptool.errors import UserError

if TYPE_CHECKING:
    from bptool.comparison.events import Listener
    from bptool.comparison.executors import Executor
    from bptool.comparison.request import Request


def compare(wanted: Request, *, mpi: bool, quiet: bool, json: bool) -> None:
    """Run the study, and let go of its folder; raises Stopped where the user stopped it before its
    last trial."""
    with terminal.outliving_output() as losses:
        try:
            _compare(wanted, lambda event: losses.log(wanted.folder.path), mpi, quiet, json)
        finally:
            losses.log(wanted.folder.path)
            wanted.folder.release()


def _compare(wanted: Request, log: Listener, mpi: bool, quiet: bool, json: bool) -> None:
    if quiet and json:
        raise UserError("--quiet and --json exclude each other; choose one")
    from bptool.cli.comparison_display import listener_for
    from bptool.cli.comparison_report import print_opening, print_report
    from bptool.cli.console import Console
    from bptool.cli.signals import stopping
    from bptool.comparison.analysis import analyse
    from bptool.comparison.json_report import plain
    from bptool.comparison.pages import write_pages
    from bptool.comparison.study import Study

    console = Console()
    executor = _executor(wanted, mpi)
    passed_over = wanted.passed_over
    if not wanted.resumed:
        passed_over = wanted.folder.create(wanted.plan, wanted.ground.about)
    if passed_over:
        say(passed_over, kind="warning")
    study = Study(
        wanted.plan, wanted.ground, wanted.folder, executor, wanted.records, wanted.timings
    )
    for note in wanted.changes:
        say(f"not as when the study began: {note}; trials to come may differ in their last bits",
            kind="warning")  # fmt: skip
    if not (quiet or json):
        print_opening(console, wanted, executor.n_slots)
    with (
        listener_for(console, silent=quiet or json) as listener,
        stopping(study.request_stop) as asked,
    ):
        stopped = study.run([listener, log])
    bigrams = wanted.ground.bigram_losses
    analysis = analyse(wanted.plan, study.records, study.timings, bigrams)
    plain_report = plain(wanted.plan, analysis, len(study.records))
    files = {"results": str(wanted.folder.results)}
    try:
        about = wanted.ground.about
        files |= write_pages(wanted.folder, wanted.plan, about, analysis, plain_report)
    except OSError as error:  # which must not cost the study
        say(f"could not write the report: {error}", kind="warning")
    if json:
        found = {**plain_report, "interrupted": stopped, "files": files}
        terminal.json(found)
    else:
        print_report(console, wanted, analysis, files, quiet)
    if stopped:
        n = sum(record.status != "failed" for record in study.records)
        words = [str(wanted.folder.path)]
        words += [word for plugin in wanted.folder.plugins for word in ("--plugin", plugin)]
        terminal.line(
            f"stopped: {n} of {wanted.plan.n_trials} trials are done; go on with: "
            f"bptool compare-optimizers --resume {' '.join(map(wording.argument, words))}",
            err=True,
        )
        raise Stopped(asked.exit_code)


def _executor(wanted: Request, mpi: bool) -> Executor:
    from bptool.comparison.executors import MPIExecutor, ProcessExecutor
    from bptool.comparison.study import n_processes

    return MPIExecutor() if mpi else ProcessExecutor(n_processes(wanted.plan))
