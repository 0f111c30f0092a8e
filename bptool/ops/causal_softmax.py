"""Softmax of the first n elements of a row: p = softmax(scale x[:n]), and 0 after.

In place, a row of the attention weights at a time; see ``attention.py``.
Backward, from the gradient of p to that of x:  dx = scale p (dp - sum of p dp).
"""

from __future__ import annotations

from bptool.ops.jit import kernel, kernel_without_nan
from bptool.ops.vector_math import exp

WHOLE = 32
"""Loops over a row's first n elements run to a multiple of this, with what is past n masked: the
loop for the last few elements is not one of vectors, and took longer than the rest."""


@kernel
def whole(n, width):  # type: ignore[no-untyped-def]
    """``n`` rounded up to a multiple of WHOLE, or the whole width."""
    return min((n + WHOLE - 1) // WHOLE * WHOLE, width)


@kernel_without_nan
def causal_max(row, n):  # type: ignore[no-untyped-def]
    """Largest of the first ``n`` elements; a NaN comes through in the sum that follows."""
    largest = row[0]
    for s in range(whole(n, row.size)):
        value = row[s] if s < n else row[0]
        largest = value if value > largest else largest
    return largest


@kernel
def softmax_row(row, n, scale):  # type: ignore[no-untyped-def]
    """row[:n] = softmax(scale row[:n]), and 0 after; returns what :func:`softmax_again` takes."""
    real = row.dtype.type
    zero = real(0.0)
    stop = whole(n, row.size)
    largest = causal_max(row, n)
    total = zero
    for s in range(stop):
        e = exp(scale * (row[s] - largest))
        e = e if s < n else zero
        row[s] = e
        total += e
    inverse = real(1.0) / total
    for s in range(stop):
        row[s] *= inverse
    row[stop:] = zero
    return largest, inverse


@kernel
def softmax_again(row, n, scale, largest, inverse):  # type: ignore[no-untyped-def]
    """The same, where the largest element and one over the sum of exponentials are known."""
    zero = row.dtype.type(0.0)
    stop = whole(n, row.size)
    for s in range(stop):
        e = exp(scale * (row[s] - largest)) * inverse
        row[s] = e if s < n else zero
    row[stop:] = zero


@kernel
def softmax_backward_row(d_row, row, n, scale):  # type: ignore[no-untyped-def]
    """From the gradient of the weights ``row`` to that of the scores, in place:
    d_row = scale row (d_row - sum of row d_row), and 0 after n, where anything may have been."""
    zero = row.dtype.type(0.0)
    stop = whole(n, row.size)
    dot = zero
    for s in range(stop):
        d = d_row[s] if s < n else zero
        dot += d * row[s]
    for s in range(stop):
        d = scale * row[s] * (d_row[s] - dot)
        d_row[s] = d if s < n else zero
    d_row[stop:] = zero
