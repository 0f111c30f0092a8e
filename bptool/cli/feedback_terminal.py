"""Judging in the terminal: two answers side by side, and one key."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from bptool.cli import terminal
from bptool.cli.console import Console
from bptool.feedback.prompts import transcript

if TYPE_CHECKING:
    from bptool.feedback.session import Pair, Session

KEYS = {
    **dict.fromkeys(("1", "l", "\x1b[D", "\x1bOD", "\xe0K", "left"), "left"),
    **dict.fromkeys(("2", "r", "\x1b[C", "\x1bOC", "\xe0M", "right"), "right"),
    **dict.fromkeys(("t", "=", "tie"), "tie"),
    **dict.fromkeys(("s", "skip"), "skip"),
    **dict.fromkeys(("e", "edit"), "edit"),
    **dict.fromkeys(("u", "\x7f", "\x08", "undo"), "undo"),
    **dict.fromkeys(("q", "\x1b", "\x03", "\x04", "", "quit"), "quit"),
}
"""What each key, or each word where lines are read, means; arrows as terminals send them."""
HELP = "← 1 left   → 2 right   t tie   s skip   e edit   u undo   q quit"
ASCII_HELP = "1 left   2 right   t tie   s skip   e edit   u undo   q quit"
LEAST_SIDE_BY_SIDE = 60
"""Columns from which on answers stand beside each other."""


def ask(session: Session, console: Console) -> None:
    """Show pair after pair and take a key for each; every answer is saved at once."""
    with Keys() as keys:
        if _ask_all(session, console, keys):
            console.print(Text("All prompts are judged.", style="bold green"))


def _ask_all(session: Session, console: Console, keys: Keys) -> bool:
    """False where the reviewer quits."""
    while pair := session.next():
        done = session.total - len(session.left_over)
        console.print(render(pair, done, session.total, console))
        while True:
            meaning = KEYS.get(keys.read())
            if meaning == "quit":
                return False
            if meaning == "undo":
                taken = session.undo()
                said = "nothing to undo" if taken is None else f"undone: {taken.choice}"
                console.print(Text(said, style="yellow"))
                if taken is not None:
                    break
            elif meaning == "edit":
                if _edit(session, pair, console, keys):
                    break
            elif meaning is not None:
                session.judge(pair, meaning)  # type: ignore[arg-type]
                console.print(Text(f"saved: {meaning}", style="green"))
                break
            else:
                console.print(Text(_help(console), style="dim"))
    return True


def render(pair: Pair, done: int, total: int, console: Console) -> RenderableType:
    """A prompt and its two answers, beside each other where there is room."""
    question = terminal.visible(transcript(pair.prompt))
    titles = Text(f"{done + 1:,} of {total:,}", style="dim")
    sides = [
        Panel(Text(terminal.visible(text) or "(empty)"), title=title, title_align="left")
        for title, text in (("1 left", pair.left), ("2 right", pair.right))
    ]
    wide = console.width >= LEAST_SIDE_BY_SIDE
    answers: RenderableType = Group(*sides)
    if wide:
        for side in sides:
            side.width = (console.width - 1) // 2
        answers = Columns(sides, padding=(0, 1, 0, 0), expand=False)
    return Group(
        Text(""), titles, Text(question, style="bold"), answers, Text(_help(console), "dim")
    )


class Keys:
    """Reads single keys of a terminal, or lines of anything else; a context manager.

    The terminal gives keys as they are typed from the first pair to the last, so that what is typed
    ahead is not lost.
    """

    def __init__(self) -> None:
        self._typed = b""
        self._before: list[Any] | None = None

    def __enter__(self) -> Keys:
        self._take()
        return self

    def __exit__(self, *error: object) -> None:
        self._give_back()

    def read(self) -> str:
        """The next key, or line in lower case; empty at the end."""
        if self._before is not None:
            return self._key()
        if sys.stdin.isatty():  # no terminal of POSIX
            import typer

            try:
                return typer.getchar().lower()
            except (KeyboardInterrupt, EOFError):
                return ""
        line = sys.stdin.readline()
        return line.strip().lower() if line.strip() else ("" if not line else "?")

    def line(self) -> str:
        """A line as it is written, which the terminal lets one edit."""
        self._give_back()
        try:
            return sys.stdin.readline().strip()
        finally:
            self._take()

    def _key(self) -> str:
        try:
            while not self._typed:
                self._typed = os.read(sys.stdin.fileno(), 64)
                if not self._typed:
                    return ""
        except KeyboardInterrupt:
            return ""
        n = 3 if self._typed[:2] in (b"\x1b[", b"\x1bO") else 1
        key, self._typed = self._typed[:n], self._typed[n:]
        return key.decode("latin-1").lower() if n == 1 else key.decode("latin-1")

    def _take(self) -> None:
        if not sys.stdin.isatty():
            return
        try:
            import termios
            import tty
        except ImportError:
            return
        self._before = termios.tcgetattr(sys.stdin.fileno())
        tty.setcbreak(sys.stdin.fileno(), termios.TCSADRAIN)

    def _give_back(self) -> None:
        if self._before is not None:
            import termios

            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._before)
            self._before = None


def _help(console: Console) -> str:
    return ASCII_HELP if console.options.ascii_only else HELP


def _edit(session: Session, pair: Pair, console: Console, keys: Keys) -> bool:
    """Take a better answer for one of the two; False if nothing was written."""
    console.print(Text("improve which answer? 1 left   2 right", style="dim"))
    side = KEYS.get(keys.read())
    if side not in ("left", "right"):
        console.print(Text("not edited", style="yellow"))
        return False
    console.print(Text("write the better answer, end with a line end:", style="dim"))
    text = keys.line()
    was = pair.left if side == "left" else pair.right
    if not text or text == was:
        console.print(Text("not edited", style="yellow"))
        return False
    session.edit(pair, side, text)
    console.print(Text("saved: edit", style="green"))
    return True
