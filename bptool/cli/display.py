"""Which display shows a training run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bptool.errors import UserError

if TYPE_CHECKING:
    from bptool.cli.console import Console
    from bptool.cli.plain import LineListener
    from bptool.cli.screen import Screen


def listener_for(
    console: Console | None = None, *, quiet: bool = False, json: bool = False
) -> Screen | LineListener:
    """Choose how training is shown; use it as a context manager and as the loop's listener.

    Args:
        console: where to; the standard output if none is given.
        quiet: only one line at the end.
        json: one JSON object an event, in place of anything else.

    Returns:
        The live screen on a terminal that can redraw; plain lines in pipes, in CI (``CI`` set in
        the environment) and on terminals that cannot.
    """
    if quiet and json:
        raise UserError("--quiet and --json exclude each other; choose one")
    if console is None:
        from bptool.cli.console import Console

        console = Console()
    if not (quiet or json) and console.is_interactive and not os.environ.get("CI"):
        from bptool.cli.screen import Screen

        return Screen(console)
    from bptool.cli import plain

    kind = plain.JsonLines if json else plain.LastLine if quiet else plain.PlainLines
    return kind(console.file)  # type: ignore[arg-type]
