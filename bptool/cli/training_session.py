"""Running a training request in the foreground: its display, its signals, its exit code."""

from __future__ import annotations

from bptool.cli import terminal
from bptool.cli.failures import Stopped
from bptool.cli.programs import resume_command
from bptool.cli.signals import stopping
from bptool.cli.time_limit import EXIT_CODE, TimeLimit
from bptool.cli.training_request import Request


def train(request: Request, quiet: bool, json: bool) -> None:
    """Train; raises Stopped where the run was stopped before its last step."""
    from bptool.cli.console import Console
    from bptool.cli.display import listener_for
    from bptool.training.begin import resume_run, start_run

    limit = TimeLimit(request.seconds) if request.seconds is not None else None
    with listener_for(Console(), quiet=quiet, json=json) as listener:
        listeners = [listener] if limit is None else [listener, limit]
        if request.resume:
            training = resume_run(
                request.config, request.folder, listeners, checkpoint=request.checkpoint
            )
        else:
            training = start_run(request.config, request.folder, listeners)
        training.detect_anomaly = request.detect_anomaly
        if limit is not None:
            limit.training = training
        try:
            with stopping(training.request_stop, at_once=True) as asked:
                interrupted = training.run()
        finally:
            training.pieces.close()
    if not interrupted:
        return
    if quiet or json:  # the other displays have said so
        command = resume_command(str(request.folder.path))
        terminal.line(f"stopped and saved; go on with: {command}", err=True)
    passed = limit is not None and limit.has_passed and asked.number is None
    raise Stopped(EXIT_CODE if passed else asked.exit_code)
