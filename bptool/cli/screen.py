"""The live display of ``bptool train`` on a terminal.

Above, one line an evaluation stays in the scrollback, so that loss and samples are seen getting
better; below, a panel is redrawn in place. It is redrawn only when an event arrives, between
steps: a thread that refreshed it would take the GIL from the workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from bptool.cli import panel, summary, wording
from bptool.cli.progress import TrainingProgress
from bptool.training.events import (
    Compiling,
    Evaluated,
    Event,
    Notice,
    Sampled,
    StepDone,
    StoppedEarly,
    TrainingFinished,
    TrainingStarted,
)

SHORTEST_PAUSE_SECONDS = 0.125
LARGEST_SHARE = 0.02
"""Drawing takes at most this share of the time: slow terminals are redrawn less often."""


class Screen:
    """A listener that draws training on ``console``; a context manager that restores it."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self.progress = TrainingProgress(clock)
        self._clock = clock
        self._next_draw = 0.0
        self._live: Live | None = None
        self._row: Evaluated | None = None
        """An evaluation whose line waits for its sample."""
        self._has_header = False

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._print_row(None)
        self._stop()

    def __call__(self, event: Event) -> None:
        """Show ``event``."""
        if isinstance(event, StepDone | Evaluated | TrainingFinished):
            self._print_row(None)
        self.progress.observe(event)
        match event:
            case StepDone():
                self._draw_if_due()
                return
            case TrainingStarted():
                self._print_opening(event)
            case Compiling(done=True):
                how = "loaded from the cache" if event.cached else "compiled"
                text = f"{event.what} {how} in {wording.duration(event.seconds)}"
                self._print(Text(text, style="dim"))
            case Notice():
                warning = event.level == "warning"
                mark = ("warning: ", "bold yellow") if warning else ("note: ", "bold cyan")
                self._print(Text.assemble(mark, event.text), wrap=True)
            case StoppedEarly():
                self._print_row(None)
                self._print(Text.assemble(("note: ", "bold cyan"), str(event)), wrap=True)
            case Evaluated():
                self._row = event
            case Sampled():
                self._print_row(event)
            case TrainingFinished():
                self._stop()
                self._print_closing()
                return
        self._draw()

    def _print(self, text: Text, wrap: bool = False) -> None:
        """Print a line that stays, indented, above the panel."""
        width = max(self.console.width - 4, 1)
        if wrap:
            for line in text.wrap(self.console, width):
                self.console.print("  ", line, sep="", highlight=False, no_wrap=True)
        else:
            text.truncate(width, overflow="ellipsis")
            self.console.print("  ", text, sep="", highlight=False, no_wrap=True)

    def _print_opening(self, event: TrainingStarted) -> None:
        self.console.print()
        for number, line in enumerate(summary.opening_lines(event)):
            self._print(Text(line, style="dim" if number else "bold"), wrap=True)

    def _print_row(self, sample: Sampled | None) -> None:
        if self._row is None:
            return
        if not self._has_header:
            self.console.print()
            self._print(panel.history_header(self._row))
            self._has_header = True
        self._print(panel.history_row(self._row, sample, self.console.width - 4))
        self._row = None

    def _print_closing(self) -> None:
        end = self.progress.finished
        assert end is not None
        self.console.print()
        style = "bold yellow" if end.interrupted else "bold green"
        self._print(Text(summary.headline(self.progress), style=style), wrap=True)
        self.console.print()
        self.console.print(panel.closing_table(self.progress, self.console))
        self.console.print()

    def _draw_if_due(self) -> None:
        if self._clock() >= self._next_draw:
            self._draw()

    def _draw(self) -> None:
        began = self._clock()
        if self._live is None:
            self._live = Live(
                console=self.console,
                auto_refresh=False,
                transient=True,
                vertical_overflow="crop",
            )
            self._live.start()
        self._live.update(panel.render(self.progress, self.console), refresh=True)
        now = self._clock()
        self._next_draw = now + max(SHORTEST_PAUSE_SECONDS, (now - began) / LARGEST_SHARE)

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
