"""Running a learning-rate sweep in the foreground: display, signals, files, and what it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from bptool.cli import terminal, wording
from bptool.cli.failures import Stopped
from bptool.errors import RunError, UserError

if TYPE_CHECKING:
    from bptool.config.schema import RunConfig
    from bptool.training.lr_find import Listener, RangeTest
    from bptool.training.lr_find_folder import SweepFolder
    from bptool.training.lr_trials import Finding


@dataclass(frozen=True)
class Request:
    """A search to run.

    Attributes:
        trial_steps: steps of each short run.
        command: the words of the command that trains what was swept, but for the rate.
    """

    config: RunConfig
    test: RangeTest
    trial_steps: int
    folder: SweepFolder
    command: list[str]

    @staticmethod
    def setting(rate: float) -> str:
        """What ``--set`` takes for a learning rate."""
        return f"optimizer.learning_rate={wording.rate(rate)}"

    def training(self, rate: float) -> str:
        """The command that trains at ``rate``."""
        return " ".join(map(wording.argument, [*self.command, "--set", self.setting(rate)]))


@terminal.outliving_output()
def find(request: Request, *, quiet: bool, json: bool) -> None:
    """Search, write the files and say what was found; raises Stopped where the user stopped it."""
    from bptool.cli.console import Console
    from bptool.cli.lr_find_display import listener_for, print_finding

    if quiet and json:
        raise UserError("--quiet and --json exclude each other; choose one")
    console = Console()
    request.folder.check_free()
    with listener_for(console, silent=quiet or json) as listener:
        finding, exit_code = _search(request, listener)
    if finding.interrupted:
        tried, wanted = len(finding.sweep.rates), request.test.n_steps
        where = f"{tried:,} of {wanted:,} rates"
        if finding.sweep.ending != "interrupted":
            where = f"the sweep and {len(finding.losses)} short runs"
        terminal.line(f"stopped after {where}; nothing is kept", err=True)
        raise Stopped(exit_code)
    unsaved = None
    try:
        request.folder.save(finding, request.config)
    except RunError as error:  # what was found is told all the same
        unsaved = error
    files = {} if unsaved else {"plot": request.folder.plot, "numbers": request.folder.data}
    if json:
        found = finding.to_json() | {"files": {name: str(path) for name, path in files.items()}}
        terminal.json(found)
    else:
        print_finding(console, request, finding, files, quiet)
    if unsaved:
        raise unsaved
    if finding.suggested is None:
        raise typer.Exit(1)


def _search(request: Request, listener: Listener) -> tuple[Finding, int]:
    """What was found, and the exit code where it was stopped."""
    from bptool.cli.signals import stopping
    from bptool.training.lr_trials import find_rate

    stop = False

    def request_stop() -> None:
        nonlocal stop
        stop = True

    with stopping(request_stop) as asked:
        steps = request.trial_steps
        found = find_rate(request.config, request.test, steps, listener, lambda: stop)
        return found, asked.exit_code
