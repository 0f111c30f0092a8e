"""The option ``--stop`` of ``bptool generate`` and ``bptool chat``."""

from __future__ import annotations

from bptool.errors import UserError

STOP_HELP = "End the text before this string; \\n is a line end. Repeatable."


def stop_strings(given: list[str] | None) -> tuple[str, ...]:
    """The strings of ``--stop``, of which none may be empty."""
    if "" in (given or []):
        raise UserError("--stop is empty; give the string that ends the text")
    return tuple(text.replace("\\n", "\n").replace("\\t", "\t") for text in given or [])
