"""Streams through memory: what no kernel can read or write faster than.

Each goes ``n_passes`` times over x (n,), an array of integers, whose size decides which cache or
memory it meets. A kernel without products reads, writes, or does both in one of these ways, so the
fastest of them is its limit.
"""

from __future__ import annotations

import numpy as np

from bptool.ops.jit import kernel

DTYPE = np.dtype(np.int32)


@kernel
def read(x, n_passes):  # type: ignore[no-untyped-def]
    """The bits of x, or'ed together."""
    bits = x.dtype.type(0)
    for _ in range(n_passes):
        for j in range(x.size):
            bits |= x[j]
    return bits


@kernel
def write(x, n_passes):  # type: ignore[no-untyped-def]
    """x <- a number."""
    for i in range(n_passes):
        for j in range(x.size):
            x[j] = i


@kernel
def change(x, n_passes):  # type: ignore[no-untyped-def]
    """x <- x + a number: each vector is read and written."""
    for i in range(n_passes):
        for j in range(x.size):
            x[j] += i


@kernel
def add(x, n_passes):  # type: ignore[no-untyped-def]
    """The last third of x <- the sum of the other two: two vectors are read, one is written."""
    third = x.size // 3
    a, b, c = x[:third], x[third : 2 * third], x[2 * third : 3 * third]
    for i in range(n_passes):
        for j in range(third):
            c[j] = a[j] + b[j] + i


STREAMS = {read: 1, write: 1, change: 2, add: 1}
"""How often each meets every element in a pass: what is changed is read and written."""
