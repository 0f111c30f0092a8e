"""Rotary positions: each pair of a head's columns is turned by an angle that grows with position.

    y_j = x_j cos a - x_{j+h} sin a,   y_{j+h} = x_{j+h} cos a + x_j sin a,   0 <= j < h = D / 2
    a = position base^(-j / h)

Shapes: qkv (N, (H + 2 G) D), in place, its columns H heads of queries, G of keys and G of values,
of which queries and keys are turned; angles (positions, 2, h) cosines and sines, from
:func:`rotary_angles`, without elements for no turning; starts (B, T) or (0, 0), see
``documents.py``: a position counts from its document's start.
A query and a key that are both turned have a product that depends on the distance alone.
Backward: dx is dy turned back, since a rotation's transpose is its inverse.
A team cuts the jobs of ``attention.py``: job = sequence * H + head; that of the first query head of
a group turns the group's key. Columns j and j + h make a pair, as in Llama's published weights for
Hugging Face; the paper pairs neighbours, which is the same with columns in another order.
Source: Su et al. 2021, arXiv:2104.09864, equations 15 and 34.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bptool.ops.documents import document_start
from bptool.ops.jit import kernel


def rotary_angles(
    n_positions: int, head_dim: int, base: float, dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    """Cosines and sines for every position and pair, (n_positions, 2, head_dim / 2)."""
    half = head_dim // 2
    angles = np.arange(n_positions)[:, None] / base ** (np.arange(half) / half)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(dtype)


@kernel
def turn_head(row, first, angle, sign):  # type: ignore[no-untyped-def]
    """Turn the head of ``row`` that begins at column ``first``; angle (2, h)."""
    half = angle.shape[1]
    s = row.dtype.type(sign)
    for j in range(half):
        a, b = row[first + j], row[first + half + j]
        cosine, sine = angle[0, j], s * angle[1, j]
        row[first + j] = a * cosine - b * sine
        row[first + half + j] = b * cosine + a * sine


@kernel
def _turn(qkv, angles, starts, n_head, n_time, sign, first_job, stop_job):  # type: ignore[no-untyped-def]
    if angles.size == 0:
        return
    head = 2 * angles.shape[2]
    n_kv = (qkv.shape[1] // head - n_head) // 2
    group = n_head // n_kv
    for job in range(first_job, stop_job):
        i, h = job // n_head, job % n_head
        for t in range(n_time):
            row, angle = qkv[i * n_time + t], angles[t - document_start(starts, i, t)]
            turn_head(row, h * head, angle, sign)
            if h % group == 0:
                turn_head(row, (n_head + h // group) * head, angle, sign)


@kernel
def rotary_forward(qkv, angles, starts, n_head, n_time, first_job, stop_job):  # type: ignore[no-untyped-def]
    _turn(qkv, angles, starts, n_head, n_time, 1.0, first_job, stop_job)


@kernel
def rotary_backward(dqkv, angles, starts, n_head, n_time, first_job, stop_job):  # type: ignore[no-untyped-def]
    _turn(dqkv, angles, starts, n_head, n_time, -1.0, first_job, stop_job)


@kernel
def rotary_decode(qkv, angles, runs, n_head, first, stop):  # type: ignore[no-untyped-def]
    """New rows at the positions that ``runs`` gives them; jobs as in ``attention_decode.py``."""
    if angles.size == 0:
        return
    head = 2 * angles.shape[2]
    n_kv = (qkv.shape[1] // head - n_head) // 2
    group = n_head // n_kv
    for job in range(first, stop):
        run, h = runs[job // n_head], job % n_head
        row0, n_rows, position0 = run[0], run[1], run[3]
        for t in range(n_rows):
            row, angle = qkv[row0 + t], angles[position0 + t]
            turn_head(row, h * head, angle, 1.0)
            if h % group == 0:
                turn_head(row, (n_head + h // group) * head, angle, 1.0)
