"""A training run that is asked for: its configuration, its folder, and how it is to be run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bptool.config.schema import RunConfig
    from bptool.training.events import Listener
    from bptool.training.run import Training
    from bptool.training.run_folder import RunFolder
    from bptool.training.start import Opened

RUNS = Path("runs")


@dataclass(frozen=True)
class Request:
    """A run to start, or to go on with."""

    config: RunConfig
    folder: RunFolder
    resume: bool
    checkpoint: str = "last"
    """Which one a resumed run goes on from."""
    seconds: float | None = None
    """After which it stops and saves."""
    detect_anomaly: bool = False
    """Stop at the first number that is not finite."""
    notes: tuple[str, ...] = ()
    """What is said at the start, in one line each."""
    opened: Opened | None = field(default=None, compare=False, repr=False)
    """What was read to settle it."""

    def begin(self, listeners: Sequence[Listener] = ()) -> Training:
        """The run, started or resumed and ready to train; ``listeners`` are told what happens.

        Raises:
            UserError: a setting, a text or the folder is unfit.
        """
        from bptool.training.begin import resume_run, start_run

        given = (self.config, self.folder, listeners)
        if self.resume:
            anomalies = self.detect_anomaly
            return resume_run(*given, checkpoint=self.checkpoint, detect_anomaly=anomalies)
        return start_run(*given, detect_anomaly=self.detect_anomaly, opened=self.opened)


def name_of(source: list[str]) -> str:
    """What a folder for the results of ``source`` is called."""
    if source[0] == "-":
        return "stdin"
    name = Path(source[0].removeprefix("dataset:")).stem
    return "".join(c for c in name if c not in "*?[]") or "run"
