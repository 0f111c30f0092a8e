"""How a study is shown while it runs: live on a terminal, a line a trial elsewhere.

The live part is redrawn only when an event arrives, between steps: a thread that refreshed it
would take the GIL from the workers.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bptool.cli import wording
from bptool.cli.comparison_progress import StudyProgress

if TYPE_CHECKING:
    from bptool.comparison.events import Event
    from bptool.comparison.trial import Outcome

INDENT = (0, 2)
SHORTEST_PAUSE_SECONDS = 0.125
LARGEST_SHARE = 0.02
"""Drawing takes at most this share of the time."""


def listener_for(console: Console, silent: bool = False) -> StudyLines | StudyScreen | Silence:
    """The live display on a terminal, plain lines elsewhere, or nothing; a context manager."""
    if silent:
        return Silence()
    live = console.is_interactive and not os.environ.get("CI")
    return StudyScreen(console) if live else StudyLines(console)


class Silence:
    """Shows nothing."""

    def __enter__(self) -> Silence:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __call__(self, event: Event) -> None:
        """Let ``event`` pass."""


class StudyLines:
    """One line for each trial as it ends, and for kernels that were compiled."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self.progress = StudyProgress(clock)

    def __enter__(self) -> StudyLines:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __call__(self, event: Event) -> None:
        """Write the line of ``event``, if it has one."""
        from bptool.comparison.events import TrialFinished
        from bptool.training.events import Compiling

        self.progress.observe(event)
        if isinstance(event, Compiling) and event.done and not event.cached:
            text = f"{event.what} compiled in {wording.duration(event.seconds)} (once, then loaded)"
            self._write(text)
        elif isinstance(event, TrialFinished):
            number, total = len(self.progress.outcomes), self.progress.n_trials
            left = wording.duration(self.progress.seconds_left)
            rest = f"; {left} left" if number < total else ""
            self._write(f"trial {number} of {total}: {describe(event.outcome)}{rest}")

    def _write(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


class StudyScreen(StudyLines):
    """The lines above, and below them a bar, the trial that runs, and the time left."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console, clock)
        self._clock = clock
        self._next_draw = -math.inf
        self._live = Live(
            console=console, auto_refresh=False, transient=True, vertical_overflow="crop"
        )

    def __enter__(self) -> StudyScreen:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        """Show ``event``; steps are drawn only so often that drawing costs next to nothing."""
        from bptool.comparison.events import TrialStep

        super().__call__(event)
        began = self._clock()
        if not isinstance(event, TrialStep) or began >= self._next_draw:
            self._live.update(render(self.progress), refresh=True)
            now = self._clock()
            self._next_draw = now + max(SHORTEST_PAUSE_SECONDS, (now - began) / LARGEST_SHARE)

    def _write(self, line: str) -> None:
        self.console.print(Padding(Text(line), INDENT))


def describe(outcome: Outcome) -> str:
    """How a trial ended, in one phrase."""
    trial = f"{outcome.trial.optimizer}, seed {outcome.trial.seed}"
    took = wording.duration(outcome.seconds)
    if outcome.status == "diverged":
        return f"{trial}: diverged at step {outcome.steps:,}, after {took}"
    return f"{trial}: validation loss {wording.decimal(outcome.final_loss)} in {took}"


def render(progress: StudyProgress) -> RenderableType:
    """The panel for the present state."""
    from bptool.comparison.ranking import rank

    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(ratio=1)
    grid.add_column(justify="right", no_wrap=True, min_width=5)
    grid.add_column(justify="right", no_wrap=True, min_width=len("59 min 59 s left"))
    left = progress.seconds_left
    meter = ProgressBar(
        total=1.0, completed=progress.share, complete_style="cyan", finished_style="green"
    )
    ended = len(progress.outcomes) == progress.n_trials
    remaining = "" if ended or math.isnan(left) else f"{wording.duration(left)} left"
    grid.add_row(meter, Text(f"{100 * progress.share:.0f} %", style="bold"), Text(remaining))
    now = Text(f"{len(progress.outcomes)} of {progress.n_trials} trials done", style="dim")
    if progress.running is not None:
        trial = progress.running.trial
        now.append("  running ", style="dim")
        now.append(f"{trial.optimizer}, seed {trial.seed}", style="bold")
        if progress.compiling is not None:
            now.append(": getting its kernels ready", style="cyan")
        else:
            loss = wording.decimal(progress.loss.value)
            now.append(f": step {progress.step:,} of {progress.n_steps:,}, training loss {loss}")
    parts: list[RenderableType] = [Text(""), grid, now]
    best = next((row for row in rank(progress.outcomes) if row.final), None)
    if best is not None and best.final is not None:
        loss = wording.decimal(best.final.mean)
        parts.append(Text(f"lowest so far: {best.optimizer}, mean {loss}", style="dim"))
    return Padding(Group(*parts), INDENT)
