"""Documents into rows, each into the fullest row that has room for it.

Unlike the first fit of ``chat/packing.py`` it can be asked before a row is taken, so that a step is
filled with what fits into its rows, and it leaves less of them empty.
"""

from __future__ import annotations

from bisect import bisect_left, insort


class BestFit:
    """Rows of ``context`` places, at most ``most`` of them.

    Attributes:
        rows: numbers of the documents in each row, in order.
    """

    def __init__(self, context: int, most: int | None = None) -> None:
        self._context, self._most = context, most
        self._rooms: list[tuple[int, int]] = []  # room and row, sorted
        self.rows: list[list[int]] = []

    def place(self, number: int, length: int) -> int | None:
        """Put a document of ``length`` places into a row; the row, or None if no row has room."""
        at = bisect_left(self._rooms, (length, -1))
        if at < len(self._rooms):
            room, row = self._rooms.pop(at)
        elif length > self._context or len(self.rows) == self._most:
            return None
        else:
            room, row = self._context, len(self.rows)
            self.rows.append([])
        self.rows[row].append(number)
        insort(self._rooms, (room - length, row))
        return row

    def take_back(self, row: int, length: int) -> None:
        """Undo the last :meth:`place`, which put a document of ``length`` into ``row``."""
        self.rows[row].pop()
        at = next(i for i, (_, other) in enumerate(self._rooms) if other == row)
        room, _ = self._rooms.pop(at)
        if self.rows[row]:
            insort(self._rooms, (room + length, row))
        else:
            self.rows.pop()  # it was opened for this document, so it is the last
