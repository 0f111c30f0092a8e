"""Running a training request in the foreground: its display, its signals, its exit code."""

from __future__ import annotations

import contextlib
import sys

from bptool.cli import terminal
from bptool.cli.failures import NOTHING_LEARNED, Stopped
from bptool.cli.programs import resume_command
from bptool.cli.signals import stopping
from bptool.cli.time_limit import EXIT_CODE, TimeLimit
from bptool.errors import DivergedError
from bptool.recipes.request import Request


def train(request: Request, quiet: bool, json: bool) -> None:
    """Train; raises Stopped where the run was stopped before its last step, or learned nothing."""
    with terminal.outliving_output() as losses:
        try:
            _train(request, quiet, json, losses)
        finally:
            losses.log(request.folder.path)


def _train(request: Request, quiet: bool, json: bool, losses: terminal.Losses) -> None:
    from bptool.cli.console import Console
    from bptool.cli.display import listener_for
    from bptool.training.events import Notice
    from bptool.training.reliability import JUDGED

    limit = TimeLimit(request.seconds) if request.seconds is not None else None
    run = request.folder.path
    # The display writes to the file that it is given: what is printed meanwhile is a plug-in's.
    console = Console(file=sys.stdout)
    with (
        contextlib.redirect_stdout(sys.stderr),
        listener_for(console, quiet=quiet, json=json) as listener,
    ):
        for note in request.notes:
            listener(Notice(note))
        listeners = [listener, lambda event: losses.log(run)]
        listeners += [] if limit is None else [limit]
        training = request.begin(listeners)
        if limit is not None:
            limit.training = training
        try:
            with stopping(training.request_stop, at_once=True) as asked:
                interrupted = training.run()
        except DivergedError as error:
            if training.failed:
                error.exit_code = NOTHING_LEARNED
            raise
        finally:
            training.pieces.close()
    if training.failed:
        raise Stopped(NOTHING_LEARNED)
    if not interrupted:
        if request.config.objective.name in JUDGED:
            from bptool.cli.finetune.reliability import show_reliability

            show_reliability(run, quiet, json)
        return
    if quiet or json:  # the other displays have said so
        command = resume_command(str(run))
        terminal.line(f"stopped and saved; go on with: {command}", err=True)
    passed = limit is not None and limit.has_passed and asked.number is None
    raise Stopped(EXIT_CODE if passed else asked.exit_code)
