"""Rich's console, made safe: what it draws passes :func:`bptool.cli.terminal.visible` first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich import console as rich_console
from rich.segment import Segment
from rich.text import Text

from bptool.cli.terminal import visible


class Console(rich_console.Console):
    """A console for strings from anywhere: ``[red]`` and ``:smile:`` in them are plain text."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """A string as rich's text: made visible before it is laid out, so that widths fit."""
        return super().render_str(visible(text), **options)

    def render(
        self,
        renderable: rich_console.RenderableType,
        options: rich_console.ConsoleOptions | None = None,
    ) -> Iterable[Segment]:
        """What is printed of anything: all text in it is made visible, whoever laid it out."""
        for segment in super().render(renderable, options):
            if segment.control:  # rich's own: to move the cursor, say
                yield segment
            else:
                yield Segment(visible(segment.text), segment.style)
