"""Records packed into rows of the context, several a row, each a document of its own.

A record of n tokens is n - 1 inputs and, one place later, n - 1 targets, masked where nothing is to
be learnt. First-fit over the rows that are still open, in the order of the records: the same
records always give the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bptool.data.batches import MASKED
from bptool.data.chat.templates import Encoded

OPEN_ROWS = 64
"""Rows that a record may still go into; more would hardly fill them better."""

Int32 = NDArray[np.int32]


@dataclass(frozen=True)
class Packed:
    """Rows of documents.

    Attributes:
        tokens, targets, starts: int32 (rows, context); what is left of a row is token 0, target -1,
            a document of its own.
        used: places of each row that hold a token of a record, (rows,).
        documents: the records in each row, as numbers from 0.
    """

    tokens: Int32
    targets: Int32
    starts: Int32
    used: NDArray[np.int64]
    documents: list[list[int]]

    def first(self, n: int) -> Packed:
        """The first ``n`` rows, or all there are."""
        return Packed(
            *(self.tokens[:n], self.targets[:n], self.starts[:n]),
            self.used[:n],
            self.documents[:n],
        )

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def n_targets(self) -> int:
        """Tokens that are trained on."""
        return int((self.targets != MASKED).sum())

    @property
    def filled(self) -> float:
        """Share of the places that hold a token of a record."""
        return float(self.used.sum()) / max(self.tokens.size, 1)


def too_long(records: Sequence[Encoded], context: int) -> list[int]:
    """Numbers of the records that do not fit into a row."""
    return [i for i, record in enumerate(records) if len(record.ids) - 1 > context]


def pack(records: Sequence[Encoded], context: int) -> Packed:
    """Rows of ``records``, of which none is too long; those of fewer than 2 tokens are left out."""
    rows: list[list[int]] = []
    free: list[int] = []
    still_open: list[int] = []
    for number, record in enumerate(records):
        n = len(record.ids) - 1
        if n < 1:
            continue
        row = next((r for r in still_open if free[r] >= n), None)
        if row is None:
            row = len(rows)
            rows.append([])
            free.append(context)
            still_open = [*still_open[-OPEN_ROWS + 1 :], row]
        rows[row].append(number)
        free[row] -= n
        if free[row] == 0:
            still_open.remove(row)
    return fill_rows(rows, records, context)


def fill_rows(rows: list[list[int]], records: Sequence[Encoded], context: int) -> Packed:
    """The arrays of rows that hold the records of such numbers, in this order."""
    shape = (len(rows), context)
    tokens, starts = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    targets = np.full(shape, MASKED, np.int32)
    used = np.zeros(len(rows), np.int64)
    for row, numbers in enumerate(rows):
        place = 0
        for number in numbers:
            ids, trained = records[number]
            stop = place + len(ids) - 1
            tokens[row, place:stop] = ids[:-1]
            targets[row, place:stop] = np.where(trained[1:], ids[1:], MASKED)
            starts[row, place:stop] = place
            place = stop
        starts[row, place:] = used[row] = place
    return Packed(tokens, targets, starts, used, rows)
