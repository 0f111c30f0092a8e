"""``-`` among the texts of a command: standard input, as a file that stays."""

from __future__ import annotations

import sys

from bptool.errors import UserError


def without_stdin(source: list[str], texts: list[str]) -> tuple[list[str], list[str]]:
    """``source`` and ``texts`` with ``-`` replaced by the file that standard input was kept in.

    Raises:
        UserError: it is named twice, is a terminal or empty, or cannot be kept.
    """
    n = (source + texts).count("-")
    if n == 0:
        return source, texts
    if n > 1:
        raise UserError("standard input is one text; name - once")
    from bptool.data import standard_input

    kept = str(standard_input.keep(sys.stdin.buffer))
    replaced = [[kept if name == "-" else name for name in names] for names in (source, texts)]
    return replaced[0], replaced[1]
