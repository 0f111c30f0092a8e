"""Running a training request in the foreground: its display, its signals, its exit code."""

from __future__ import annotations

import sys

from bptool.cli import wording
from bptool.cli.failures import Stopped
from bptool.cli.signals import stopping
from bptool.cli.training_request import Request


def train(request: Request, quiet: bool, json: bool) -> None:
    """Train; raises Stopped where the user stopped the run before its last step."""
    from rich.console import Console

    from bptool.cli.display import listener_for
    from bptool.training.begin import resume_run, start_run

    with listener_for(Console(), quiet=quiet, json=json) as listener:
        arguments = (request.config, request.folder, [listener])
        if request.resume:
            training = resume_run(*arguments, checkpoint=request.checkpoint)
        else:
            training = start_run(*arguments)
        try:
            with stopping(training.request_stop):
                interrupted = training.run()
        finally:
            training.pieces.close()
    if not interrupted:
        return
    if quiet or json:  # the other displays have said so
        run = wording.argument(str(request.folder.path))
        sys.stderr.write(f"stopped and saved; go on with: bptool train {run} --resume\n")
    raise Stopped
