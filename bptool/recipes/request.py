"""A training run that is asked for: its configuration, its folder, and how it is to be run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bptool.config.schema import RunConfig
    from bptool.training.run_folder import RunFolder

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


def name_of(source: list[str]) -> str:
    """What a folder for the results of ``source`` is called."""
    if source[0] == "-":
        return "stdin"
    name = Path(source[0].removeprefix("dataset:")).stem
    return "".join(c for c in name if c not in "*?[]") or "run"
