"""Words of a text in UTF-8, by GPT-2's rule of where they begin.

    's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+

A word is letters, digits or other signs, with the space before it; a contraction; or white space,
of which the last character goes to the next word where it is a space, and is a word of its own
where it is not. Which characters are of which kind is a table, one entry for each code point.
Source: Radford, Wu, Child, Luan, Amodei, Sutskever 2019, "Language models are unsupervised
multitask learners", and the program published with it.
"""

from __future__ import annotations

from bptool.ops.jit import kernel

WHITE, LETTER, NUMBER, OTHER = 0, 1, 2, 3
_END = 4
_APOSTROPHE, _SPACE = ord("'"), ord(" ")
_D, _E, _L, _M, _R, _S, _T, _V = (ord(letter) for letter in "delmrstv")


@kernel
def _kind(data, at, end, kinds):  # type: ignore[no-untyped-def]
    """The kind of the character at ``at``, and its bytes."""
    if at >= end:
        return _END, 0
    first = data[at]
    if first < 0x80:
        return kinds[first], 1
    if first < 0xE0:
        return kinds[(first & 0x1F) << 6 | data[at + 1] & 0x3F], 2
    if first < 0xF0:
        tail = (data[at + 1] & 0x3F) << 6 | data[at + 2] & 0x3F
        return kinds[(first & 0x0F) << 12 | tail], 3
    tail = (data[at + 1] & 0x3F) << 12 | (data[at + 2] & 0x3F) << 6 | data[at + 3] & 0x3F
    return kinds[(first & 0x07) << 18 | tail], 4


@kernel
def _contraction(data, at, end):  # type: ignore[no-untyped-def]
    """The bytes of the contraction whose apostrophe is at ``at``; 0 where there is none."""
    if at + 1 >= end:
        return 0
    a = data[at + 1]
    if a == _S or a == _T or a == _M or a == _D:
        return 2
    if at + 2 < end:
        b = data[at + 2]
        if (b == _E and (a == _R or a == _V)) or (a == _L and b == _L):
            return 3
    return 0


@kernel
def word_end(data, at, end, kinds):  # type: ignore[no-untyped-def]
    """Where the word that begins at ``at`` ends.

    Shapes: data (n,) uint8, of which the text goes to ``end``; kinds (0x110000,) uint8.
    """
    first = data[at]
    if first == _APOSTROPHE:
        n = _contraction(data, at, end)
        if n > 0:
            return at + n
    stop = at + 1 if first == _SPACE else at
    kind, n = _kind(data, stop, end, kinds)
    if kind != WHITE and kind != _END:
        wanted = kind
        while kind == wanted:
            stop += n
            kind, n = _kind(data, stop, end, kinds)
        return stop
    stop = last = at
    kind, n = _kind(data, at, end, kinds)
    while kind == WHITE:
        last = stop
        stop += n
        kind, n = _kind(data, stop, end, kinds)
    return stop if kind == _END or last == at else last
