"""The live display of ``bptool train`` on a terminal.

Above, one line an evaluation stays in the scrollback, so that loss and samples are seen getting
better; below, a panel is redrawn in place when an event arrives.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import RenderableType
from rich.text import Text

from bptool.cli import panel, summary, wording
from bptool.cli.console import Console
from bptool.cli.live import LivePanel
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


class Screen:
    """A listener that draws training on ``console``; a context manager that restores it."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self.progress = TrainingProgress(clock)
        self._panel = LivePanel(console, clock)
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
        self._panel.stop()

    def __call__(self, event: Event) -> None:
        """Show ``event``."""
        if isinstance(event, StepDone | Evaluated | TrainingFinished):
            self._print_row(None)
        self.progress.observe(event)
        match event:
            case StepDone():
                self._panel.draw_if_due(self._render)
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
                self._panel.stop()
                self._print_closing()
                return
        self._panel.draw(self._render)

    def _print(self, text: Text, wrap: bool = False) -> None:
        """Print a line that stays, indented, above the panel."""
        width = max(self.console.width - 4, 1)
        if wrap:
            for line in text.wrap(self.console, width):
                self.console.print("  ", line, sep="", highlight=False, no_wrap=True)
        else:
            text.truncate(width, overflow="ellipsis")
            self.console.print("  ", text, sep="", highlight=False, no_wrap=True)

    @property
    def _maximised(self) -> bool:
        return self.progress.started is not None and self.progress.started.maximised

    def _print_opening(self, event: TrainingStarted) -> None:
        self.console.print()
        for number, line in enumerate(summary.opening_lines(event)):
            self._print(Text(line, style="dim" if number else "bold"), wrap=True)

    def _print_row(self, sample: Sampled | None) -> None:
        if self._row is None:
            return
        if not self._has_header:
            self.console.print()
            self._print(panel.history_header(self._row, self._maximised))
            self._has_header = True
        width = self.console.width - 4
        self._print(panel.history_row(self._row, sample, width, self._maximised))
        self._row = None

    def _print_closing(self) -> None:
        end = self.progress.finished
        assert end is not None
        self.console.print()
        style = "bold yellow" if end.interrupted or end.failed else "bold green"
        self._print(Text(summary.headline(self.progress), style=style), wrap=True)
        self.console.print()
        self.console.print(panel.closing_table(self.progress, self.console))
        self.console.print()

    def _render(self) -> RenderableType:
        return panel.render(self.progress, self.console)
