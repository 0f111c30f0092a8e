"""A panel on a terminal that is redrawn in place, between steps and never by a timer: a thread that
refreshed it would take the GIL from the workers."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import RenderableType
from rich.live import Live

from bptool.cli.console import Console

SHORTEST_PAUSE_SECONDS = 0.125
LARGEST_SHARE = 0.02
"""Drawing takes at most this share of the time: slow terminals are redrawn less often."""


class LivePanel:
    """Draws what it is given on ``console``; :meth:`stop` takes it away and restores the terminal.

    Args:
        clock: seconds from any start; a test gives its own.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self._clock = clock
        self._next_draw = 0.0
        self._live: Live | None = None

    def draw_if_due(self, render: Callable[[], RenderableType]) -> None:
        """Draw, unless that was done a moment ago."""
        if self._clock() >= self._next_draw:
            self.draw(render)

    def draw(self, render: Callable[[], RenderableType]) -> None:
        """Draw what ``render`` returns in place of what was drawn before."""
        began = self._clock()
        if self._live is None:
            self._live = Live(
                console=self.console,
                auto_refresh=False,
                transient=True,
                vertical_overflow="crop",
            )
            self._live.start()
        self._live.update(render(), refresh=True)
        now = self._clock()
        self._next_draw = now + max(SHORTEST_PAUSE_SECONDS, (now - began) / LARGEST_SHARE)

    def stop(self) -> None:
        """Take the panel away; it comes back with the next drawing."""
        if self._live is not None:
            self._live.stop()
            self._live = None
