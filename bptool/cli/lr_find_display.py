"""How the search for a learning rate is shown: a live panel on a terminal, plain lines elsewhere,
and what stands there at the end."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bptool.cli import panel, wording
from bptool.cli.console import Console
from bptool.cli.live import LivePanel

if TYPE_CHECKING:
    from bptool.cli.lr_find_session import Request
    from bptool.training.lr_find import Event, RateTried, SweepStarted, TrialDone, TrialStep
    from bptool.training.lr_trials import Finding

LINES_PER_SWEEP = 20
WIDEST_CURVE = 76


def listener_for(console: Console, silent: bool = False) -> Silence:
    """The live panel on a terminal, plain lines elsewhere, or nothing; a context manager."""
    if silent:
        return Silence()
    live = console.is_interactive and not os.environ.get("CI")
    return SweepScreen(console) if live else SweepLines(console)


class Silence:
    """Shows nothing."""

    def __enter__(self) -> Silence:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __call__(self, event: Event) -> None:
        """Let ``event`` pass."""


class SweepLines(Silence):
    """For pipes, logs and CI: what is swept, what is compiled, every twentieth of the rates, and
    each short run."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.started: SweepStarted | None = None

    def __call__(self, event: Event) -> None:
        """Write the lines of ``event``."""
        from bptool.training.events import Compiling
        from bptool.training.lr_find import RateTried, SweepStarted, TrialDone, TrialStep

        match event:
            case SweepStarted():
                self.started = event
                for line in opening_lines(event):
                    self.write(line)
            case Compiling(done=True):
                how = "loaded from the cache" if event.cached else "compiled"
                self.write(f"{event.what} {how} in {wording.duration(event.seconds)}")
            case RateTried():
                self.tried(event)
            case TrialStep():
                self.stepped(event)
            case TrialDone():
                self.write(trial_line(event))

    def tried(self, event: RateTried) -> None:
        """Say how the loss stands after a rate, now and then."""
        assert self.started is not None
        n_steps = self.started.test.n_steps
        if event.step % max(1, n_steps // LINES_PER_SWEEP) == 0:
            self.write(
                f"step {event.step:,} of {n_steps:,}: learning rate {wording.rate(event.rate)}, "
                f"loss {wording.decimal(event.loss)}, smoothed {wording.decimal(event.smoothed)}"
            )

    def stepped(self, event: TrialStep) -> None:
        """Let a step of a short run pass."""

    def write(self, line: str) -> None:
        """Write one line."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


class SweepScreen(SweepLines):
    """The opening lines, and below them a panel with the curve so far, or the short run."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console)
        self._clock, self._began = clock, clock()
        self._panel = LivePanel(console, clock)
        self._curve: list[float] = []

    def __exit__(self, *error: object) -> None:
        self._panel.stop()

    def tried(self, event: RateTried) -> None:
        """Draw the panel, if it is time to."""
        if not self._curve:
            self._began = self._clock()
        self._curve.append(event.smoothed)
        self._panel.draw_if_due(lambda: self.render(event))

    def render(self, event: RateTried) -> RenderableType:
        """The panel after a rate."""
        assert self.started is not None
        n_steps = self.started.test.n_steps
        gone = self._clock() - self._began
        left = gone * (n_steps - event.step) / (event.step - 1) if event.step > 1 else None
        grid = Table.grid(padding=(0, 2))
        for label, value in (
            ("learning rate", wording.rate(event.rate)),
            ("loss", f"{wording.decimal(event.loss)}, smoothed {wording.decimal(event.smoothed)}"),
            ("lowest", f"{wording.decimal(event.best)} at {wording.rate(event.best_rate)}"),
        ):
            grid.add_row(Text(label, style="dim"), Text(value))
        line = curve(self._curve, self.console)
        bar = panel.bar(event.step, n_steps, left)
        return Padding(Group(Text(""), bar, Text(""), grid, Text(""), *line), panel.INDENT)

    def stepped(self, event: TrialStep) -> None:
        """Draw the panel of a short run, if it is time to."""
        if event.step == 1:
            self._began = self._clock()
        self._panel.draw_if_due(lambda: self.render_trial(event))

    def render_trial(self, event: TrialStep) -> RenderableType:
        """The panel after a step of a short run."""
        gone = self._clock() - self._began
        left = gone * (event.n_steps - event.step) / (event.step - 1) if event.step > 1 else None
        grid = Table.grid(padding=(0, 2))
        grid.add_row(Text("short run", style="dim"), Text(f"{event.number:,}"))
        grid.add_row(Text("learning rate", style="dim"), Text(wording.rate(event.rate)))
        grid.add_row(Text("loss", style="dim"), Text(wording.decimal(event.loss)))
        bar = panel.bar(event.step, event.n_steps, left)
        return Padding(Group(Text(""), bar, Text(""), grid), panel.INDENT)

    def write(self, line: str) -> None:
        """Write one line above the panel."""
        self.console.print(Padding(Text(line), panel.INDENT))


def opening_lines(event: SweepStarted) -> Iterator[str]:
    """What is swept, and how."""
    test = event.test
    workers = "1 worker" if event.n_workers == 1 else f"{event.n_workers} workers"
    yield (
        f"{event.model} with {wording.count(event.n_parameters)} parameters, {event.optimizer}, "
        f"{workers}, {event.engine} engine"
    )
    yield (
        f"{test.n_steps:,} learning rates from {wording.rate(test.low)} to "
        f"{wording.rate(test.high)}, one step of {wording.count(event.tokens_per_step)} tokens each"
    )


def trial_line(event: TrialDone) -> str:
    """How a short run ended."""
    loss = f"validation loss {event.loss:.4f}" if math.isfinite(event.loss) else "it diverged"
    return (
        f"short run {event.number}: {event.n_steps:,} steps at {wording.rate(event.rate)}, {loss}"
    )


def curve(
    levels: Sequence[float],
    console: Console,
    rates: Sequence[float] = (),
    mark: float | None = None,
) -> list[Text]:
    """The smoothed losses as a sparkline between the first and the last; below it, where given, the
    first and last rates and the mark's place."""
    first, last = f"{levels[0]:.2f} ", f" {levels[-1]:.2f}"
    room = min(console.width - 4, WIDEST_CURVE) - len(first) - len(last)
    line = wording.sparkline(levels, room, console.options.ascii_only)
    lines = [Text.assemble((first, "dim"), (line, "cyan"), (last, "dim"))]
    if rates and line:
        low, high = wording.rate(rates[0]), wording.rate(rates[-1])
        scale = [" "] * max(len(line), len(low) + len(high) + 1)
        scale[: len(low)], scale[len(scale) - len(high) :] = low, high
        if mark is not None:
            place = (sum(r <= mark for r in rates) - 1) * len(line) // len(rates)
            label = f"^ {wording.rate(mark)}"
            end = place + len(label)
            if len(low) < place and end < len(scale) - len(high):
                scale[place:end] = label
        lines.append(Text(" " * len(first) + "".join(scale), style="dim"))
    return lines


def print_finding(
    console: Console, request: Request, finding: Finding, files: Mapping[str, Path], quiet: bool
) -> None:
    """Print the suggestion, what it was read from, the files, and the command to try."""
    found = finding.suggested
    headline = "No learning rate is suggested: the loss did not fall."
    if found is not None:
        headline = f"Suggested learning rate: {wording.rate(found)}"
    if quiet or not console.is_terminal:
        lines = [headline]
        if not quiet:
            lines += [f"{label}: {value}" for label, value in facts(request, finding, files)]
        elif found is not None:
            lines = [f"{headline} (--set {request.setting(found)}); {request.folder.path}"]
        for line in lines:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        return
    style = "bold yellow" if found is None else "bold green"
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in facts(request, finding, files):
        grid.add_row(Text(label, style="dim"), Text(value))
    sweep = finding.sweep
    drawn = curve(sweep.smoothed[1:], console, sweep.rates, found)
    parts: list[RenderableType] = [Text(""), Text(headline, style=style), Text(""), *drawn]
    parts += [Text(""), grid, Text("")]
    console.print(Padding(Group(*parts), panel.INDENT))


def facts(
    request: Request, finding: Finding, files: Mapping[str, Path]
) -> Iterator[tuple[str, str]]:
    """Label and value of each line of the summary."""
    sweep, tried = finding.sweep, sorted(finding.losses.items())
    lowest = f"{min(sweep.smoothed):.4f} at {wording.rate(sweep.best)}"
    yield "sweep", f"loss {sweep.smoothed[0]:.4f} at first, lowest {lowest}, smoothed"
    end = wording.rate(sweep.rates[-1])
    yield (
        "ended",
        {
            "blew up": f"at {end}: the loss blew up",
            "not finite": f"at {end}: loss or gradient not finite",
        }.get(sweep.ending, f"at {end}, the highest"),
    )
    runs = (f"{wording.rate(rate)} ({_loss(loss)})" for rate, loss in tried)
    yield f"short runs of {finding.n_steps:,} steps", ", ".join(runs)
    yield "initial weights", f"{_loss(finding.initial_loss)}, validation loss as of the short runs"
    yield "as configured", wording.rate(request.config.optimizer.config.learning_rate)
    if finding.suggested is None:
        low, high = wording.rate(request.test.low), wording.rate(request.test.high)
        yield "try", f"a --high above {high}, or a --low below {low}"
    elif sweep.ending == "highest rate" and tried[-1][1] == min(finding.losses.values()):
        high = wording.rate(10 * request.test.high)
        yield "note", f"the highest rate that was tried is the best; --high {high} tries more"
    for name, path in files.items():
        yield name, wording.near_path(str(path))
    if finding.suggested is not None:
        yield "train with it", request.training(finding.suggested)


def _loss(loss: float) -> str:
    return f"{loss:.4f}" if math.isfinite(loss) else "diverged"
