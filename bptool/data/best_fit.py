"""Documents into rows, the longest first, each into the fullest row that has room for it.

Best-fit decreasing (Johnson 1973, "Near-optimal bin packing algorithms") leaves less of the rows
empty than the first fit of ``chat/packing.py``, which takes records in their order.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence


def best_fit_decreasing(
    lengths: Sequence[int], context: int, most: int | None = None
) -> list[list[int]] | None:
    """Rows of ``context`` places, at most ``most`` of them: the numbers of the documents in each.

    None where the documents, which take ``lengths`` places, find no room so.
    """
    rooms: list[tuple[int, int]] = []  # room and row, sorted
    rows: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        length = lengths[number]
        at = bisect_left(rooms, (length, -1))
        if at < len(rooms):
            room, row = rooms.pop(at)
        elif length > context or len(rows) == most:
            return None
        else:
            room, row = context, len(rows)
            rows.append([])
        rows[row].append(number)
        insort(rooms, (room - length, row))
    return rows
