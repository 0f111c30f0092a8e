"""Running a training request in the foreground: its display, its signals, its exit code."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any

from bptool.cli import wording
from bptool.cli.failures import INTERRUPTED
from bptool.cli.training_request import Request

if TYPE_CHECKING:
    from bptool.training.loop import Training


def train(request: Request, quiet: bool, json: bool) -> int:
    """Train; returns the exit code: 0, or 130 where the run was stopped before its last step."""
    from rich.console import Console

    from bptool.cli.display import listener_for
    from bptool.training.begin import resume_run, start_run

    begin = resume_run if request.resume else start_run
    with listener_for(Console(), quiet=quiet, json=json) as listener:
        training = begin(request.config, request.folder, [listener])
        try:
            interrupted = _run_under_signals(training)
        finally:
            training.pieces.close()
    if interrupted and (quiet or json):  # the other displays have said so
        run = wording.argument(str(request.folder.path))
        sys.stderr.write(f"stopped and saved; go on with: bptool train {run} --resume\n")
    return INTERRUPTED if interrupted else 0


def _run_under_signals(training: Training) -> bool:
    """Run; the first Ctrl-C or SIGTERM finishes the step and saves, a second leaves at once."""

    def stop(number: int, frame: Any) -> None:
        training.request_stop()
        signal.signal(number, signal.default_int_handler)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return training.run()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
