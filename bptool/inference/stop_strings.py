"""Ending a text before any of some strings, however tokens divide them."""

from __future__ import annotations

from collections.abc import Iterable


class StopStrings:
    """Cuts one text that comes in pieces.

    Attributes:
        ended: whether one of the strings came.

    Args:
        strings: none of them empty.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        self._strings = tuple(strings)
        self._held = ""
        self.ended = False

    def push(self, piece: str) -> str:
        """What of the text so far can be shown: nothing that one of the strings may begin with."""
        shown = ""
        for character in piece:
            if self.ended:
                break
            self._held += character
            come = [len(s) for s in self._strings if self._held.endswith(s)]
            self.ended = bool(come)
            keep = max(come) if come else self._begun()
            cut = len(self._held) - keep
            shown, self._held = shown + self._held[:cut], "" if come else self._held[cut:]
        return shown

    def finish(self) -> str:
        """What was held back, once nothing more comes."""
        rest, self._held = self._held, ""
        return rest

    def _begun(self) -> int:
        """The length of the longest end of what is held that is the beginning of a string."""
        longest = max(map(len, self._strings), default=1) - 1
        for n in range(min(len(self._held), longest), 0, -1):
            if any(s.startswith(self._held[-n:]) for s in self._strings):
                return n
        return 0
