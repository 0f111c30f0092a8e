"""Texts to ids by merges that were learnt, in as many threads at once as ask for it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptool.ops.byte_pairs import make_pairs
from bptool.ops.encode import encode, make_memory
from bptool.ops.words import LETTER, NUMBER, OTHER, WHITE

_BLOCK_BITS = 8
_kinds = np.zeros(0x110000, np.uint8)
_is_known = np.zeros(len(_kinds) >> _BLOCK_BITS, bool)


class Encoder:
    """Byte-pair encoding.

    Args:
        merges: pairs of ids, in the order they were learnt. made: the id that each makes.
    """

    def __init__(self, merges: Sequence[tuple[int, int]], made: Sequence[int]) -> None:
        array = np.array(merges, np.int64).reshape(-1, 2)
        self._pairs = make_pairs(array, np.array(made, np.int64))
        self._unused: list[tuple[NDArray[Any], ...]] = []

    def encode(self, texts: Sequence[bytes]) -> list[NDArray[np.int32]]:
        """Ids of each text, which is UTF-8."""
        data = b"".join(texts)
        kinds = _kinds_for(data)
        ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
        ids, counts = np.empty(len(data), np.int32), np.empty(len(texts), np.int64)
        try:
            memory = self._unused.pop()
        except IndexError:  # as many are made as threads were ever here at once
            memory = make_memory()
        encode(np.frombuffer(data, np.uint8), ends, kinds, self._pairs, memory, ids, counts)
        self._unused.append(memory)
        bounds = pairwise([0, *counts.tolist()])
        return [ids[start:stop].copy() for start, stop in bounds]  # not to hold on to all of them


def _kinds_for(data: bytes) -> NDArray[np.uint8]:
    """The table of kinds of characters, with all that ``data`` has."""
    if data.isascii():
        blocks = np.zeros(1, np.int64)
    else:
        codes = np.frombuffer(data.decode("utf-8").encode("utf-32-le"), np.uint32)
        present = np.zeros(len(_is_known), bool)
        present[codes >> _BLOCK_BITS] = True
        blocks = np.flatnonzero(present)
    for block in blocks[~_is_known[blocks]].tolist():
        _learn_kinds(block)
    return _kinds


def _learn_kinds(block: int) -> None:
    """Find out by the library, which learnt the words, which character goes on with which word.

    Versions of Unicode differ in what is a letter.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    rule = ByteLevel(add_prefix_space=False)
    codes = np.arange(block << _BLOCK_BITS, (block + 1) << _BLOCK_BITS)
    found = np.full(len(codes), WHITE, np.uint8)
    for before, kind in (("a", LETTER), ("1", NUMBER), ("!", OTHER)):
        text = "".join(f"{before}{chr(code)}\n" for code in codes)
        starts = [start for _, (start, _) in rule.pre_tokenize_str(text)]
        is_start = np.zeros(len(text), bool)
        is_start[starts] = True
        found[~is_start[1::3]] = kind
    _kinds[codes] = found
    _is_known[block] = True
