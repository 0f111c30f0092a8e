"""How a study is shown while it runs: live on a terminal, a line a trial elsewhere."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bptool.cli import wording
from bptool.cli.comparison_progress import StudyProgress
from bptool.cli.console import Console

if TYPE_CHECKING:
    from bptool.comparison.events import Event
    from bptool.comparison.records import Record

INDENT = (0, 2)
SHORTEST_PAUSE_SECONDS = 0.25
LARGEST_SHARE = 0.02
"""Drawing takes at most this share of the time."""
MOST_SHOWN = 16
"""Trials that run are listed up to here."""
OTHER_LINES = 12
"""Of the panel, beside the trials that run and the standings; some are for what scrolls above."""


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
    """One line for each trial as it ends or is tried again, and one for the timing after them."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self.progress = StudyProgress(clock)

    def __enter__(self) -> StudyLines:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __call__(self, event: Event) -> None:
        """Write the line of ``event``, if it has one."""
        from bptool.comparison import events

        self.progress.observe(event)
        if isinstance(event, events.TrialFinished):
            number, total = len(self.progress.records), self.progress.n_trials
            said = describe(event.record, event.seconds)
            self._write(f"trial {number} of {total}: {said}{self._left()}")
        elif isinstance(event, events.TrialRetried):
            self._write(f"{event.trial.name}: {event.reason}; tried once more")
        elif isinstance(event, events.TimingStarted) and self.progress.n_timed == 0:
            self._write("measuring a step of each optimizer with nothing else running")

    def _left(self) -> str:
        ended = len(self.progress.records) >= self.progress.n_trials
        return "" if ended else f"; {wording.duration(self.progress.seconds_left)} left"

    def _write(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


class StudyScreen(StudyLines):
    """The lines above, and below them a bar, the trials that run, and the time left."""

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
            self._live.update(render(self.progress, self.console.height), refresh=True)
            now = self._clock()
            self._next_draw = now + max(SHORTEST_PAUSE_SECONDS, (now - began) / LARGEST_SHARE)

    def _left(self) -> str:
        return ""  # it stands beside the bar

    def _write(self, line: str) -> None:
        self.console.print(Padding(Text(line), INDENT))


def describe(record: Record, seconds: float) -> str:
    """How a trial ended, in one phrase."""
    trial = f"{record.phase} {record.workload} {record.optimizer}"
    trial += f", rate {record.learning_rate:.3g}, seed {record.seed}"
    took = wording.duration(seconds)
    if record.status == "diverged":
        step = record.curve[-1].step if record.curve else 0
        return f"{trial}: diverged after step {step:,}, in {took}"
    if record.status == "failed":
        return f"{trial}: failed: {record.error}"
    return f"{trial}: loss {wording.decimal(record.final_loss)} in {took}"


def render(progress: StudyProgress, height: int) -> RenderableType:
    """The panel for the present state, in at most ``height`` lines where that can be."""
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(ratio=1)
    grid.add_column(justify="right", no_wrap=True, min_width=5)
    grid.add_column(justify="right", no_wrap=True, min_width=len("59 min 59 s left"))
    left = progress.seconds_left
    meter = ProgressBar(
        total=1.0, completed=progress.share, complete_style="cyan", finished_style="green"
    )
    ended = len(progress.records) >= progress.n_trials
    remaining = "" if ended or math.isnan(left) else f"{wording.duration(left)} left"
    grid.add_row(meter, Text(f"{100 * progress.share:.0f} %", style="bold"), Text(remaining))
    said = f"{len(progress.records)} of {progress.n_trials} trials done"
    for n, what in ((progress.n_diverged, "diverged"), (progress.n_failed, "failed")):
        said += f", {n} {what}" if n else ""
    parts: list[RenderableType] = [Text(""), grid, Text(said, style="dim"), _running(progress)]
    if progress.timing is not None:
        one = progress.timing
        what = f"measuring alone, {one.n_done + 1} of {one.n_timings}: "
        parts.append(Text(f"{what}{one.trial.optimizer} on {one.trial.workload}"))
    rest = height - OTHER_LINES - min(MOST_SHOWN, len(progress.running))
    best = progress.best
    if len({optimizer for _, optimizer in best}) > max(rest, 0):
        for workload in dict.fromkeys(workload for workload, _ in best):
            record = min((best[k] for k in best if k[0] == workload), key=lambda r: r.final_loss)
            said = f"best so far on {workload}: {wording.decimal(record.final_loss)}, "
            said += f"{record.optimizer} at rate {record.learning_rate:.3g}"
            parts.append(Text(said, style="dim"))
    elif best:
        parts += [Text(""), _standings(best)]
    return Padding(Group(*parts), INDENT)


def _standings(best: Mapping[tuple[str, str], Record]) -> Table:
    """The lowest loss of each optimizer on each workload so far, the lowest of all in bold."""
    workloads = list(dict.fromkeys(workload for workload, _ in best))
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column("best loss so far", style="dim", header_style="dim")
    for workload in workloads:
        grid.add_column(workload, justify="right", header_style="dim")
    least = {w: min(r.final_loss for k, r in best.items() if k[0] == w) for w in workloads}
    for optimizer in dict.fromkeys(optimizer for _, optimizer in best):
        cells = [Text(optimizer)]
        for workload in workloads:
            record = best.get((workload, optimizer))
            loss = math.nan if record is None else record.final_loss
            style = "bold" if loss == least[workload] else ""
            cells.append(Text(wording.decimal(loss), style=style))
        grid.add_row(*cells)
    return grid


def _running(progress: StudyProgress) -> Table:
    """A line for each trial that runs; its process may be killed, and the study goes on."""
    grid = Table.grid(padding=(0, 2))
    for one in list(progress.running.values())[:MOST_SHOWN]:
        trial = one.trial
        state = f"step {one.step:,} of {trial.config.training.steps:,}"
        loss = f"training loss {wording.decimal(one.loss)}"
        if one.compiling or one.step == 0:
            # Of processes of other machines nothing is heard until they are done.
            state, loss = "running" if one.pid is None else "getting ready", ""
        grid.add_row(
            Text(f"{trial.phase} {trial.workload}"),
            Text(trial.optimizer, style="bold"),
            Text(f"seed {trial.seed}"),
            Text(state),
            Text(loss),
            Text("" if one.pid is None else f"process {one.pid}", style="dim"),
        )
    return grid
