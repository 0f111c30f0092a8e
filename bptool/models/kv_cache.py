"""Keys and values of earlier positions, kept in pages that sequences may share.

A page holds PAGE positions of one sequence, for every layer and head (``ops/attention_decode.py``).
Sequences that begin alike share pages until one of them goes on in a page that is partly filled,
which is copied then (Kwon et al. 2023, arXiv:2309.06180). Nothing here knows a model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bptool.models.base import Array
from bptool.ops.attention_decode import PAGE
from bptool.ops.memory import aligned_zeros


def pages_of(n_positions: int) -> int:
    """Pages that hold so many positions."""
    return -(-n_positions // PAGE)


class KVCache:
    """The cache of up to ``capacity`` sequences of ``context`` positions each.

    Args:
        shape: (n_layer, heads of keys, head width).
    """

    def __init__(
        self, capacity: int, context: int, shape: tuple[int, int, int], dtype: npt.DTypeLike
    ) -> None:
        self.context = context
        self.pages: Array = aligned_zeros(self.shape(capacity, context, shape), dtype)
        """Memory is taken as pages are written."""
        self.table = np.zeros((capacity, pages_of(context)), np.int32)
        """The pages of each sequence, in order."""
        self.lengths: list[int] = []
        """Positions of each sequence."""
        self._page_lists: list[list[int]] = []
        self._free = list(range(len(self.pages)))[::-1]
        self._n_uses = [0] * len(self.pages)

    @staticmethod
    def shape(capacity: int, context: int, shape: tuple[int, int, int]) -> tuple[int, ...]:
        """Of the pages of ``capacity`` full sequences."""
        n_layer, n_head, head = shape
        return (capacity * pages_of(context), n_layer, 2, n_head, PAGE, head)

    @property
    def n_pages(self) -> int:
        """Pages in use."""
        return len(self.pages) - len(self._free)

    def add(self, n: int) -> None:
        """``n`` more sequences, empty."""
        self.lengths += [0] * n
        self._page_lists += [[] for _ in range(n)]

    def select(self, parents: Sequence[int]) -> None:
        """Sequence i goes on from what ``parents[i]`` is now."""
        lengths = [self.lengths[parent] for parent in parents]
        page_lists = [list(self._page_lists[parent]) for parent in parents]
        for pages in page_lists:  # before any is released
            for page in pages:
                self._n_uses[page] += 1
        for sequence in range(len(self.lengths)):
            self.restart(sequence)
        self.lengths, self._page_lists = lengths, page_lists

    def restart(self, sequence: int) -> None:
        """Forget a sequence's positions."""
        for page in self._page_lists[sequence]:
            self._release(page)
        self._page_lists[sequence] = []
        self.lengths[sequence] = 0

    def extend(self, sequence: int, n_new: int) -> int:
        """Room for ``n_new`` more positions, and the position of the first."""
        pages, start = self._page_lists[sequence], self.lengths[sequence]
        if start % PAGE and self._n_uses[pages[-1]] > 1:
            copy = self._take()
            self.pages[copy] = self.pages[pages[-1]]
            self._release(pages[-1])
            pages[-1] = copy
        while len(pages) * PAGE < start + n_new:
            pages.append(self._take())
        self.table[sequence, : len(pages)] = pages
        self.lengths[sequence] += n_new
        return start

    def _release(self, page: int) -> None:
        self._n_uses[page] -= 1
        if self._n_uses[page] == 0:
            self._free.append(page)

    def _take(self) -> int:
        page = self._free.pop()
        self._n_uses[page] = 1
        return page
