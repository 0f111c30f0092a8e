"""The matrix product: every edge of the tile, block borders, strides, guards, NaN, threads."""

from __future__ import annotations

import functools
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bptool.ops.jit import kernel
from bptool.ops.matmul import (
    MatmulEngine,
    blas_engine,
    matmul,
    matmul_triangle,
    tiled_engine,
)
from bptool.ops.matmul.blocked import COLUMNS, DEPTH_BYTES, HEIGHT, LOWER_A, LOWER_OUT, UPPER_A
from bptool.ops.matmul.dot_rows import FEW_ROWS
from bptool.ops.matmul.libraries import LIBRARIES, find_library
from bptool.ops.matmul.target import ROWS, lanes_of, panel_columns
from bptool.ops.memory import aligned_zeros

DTYPES = ("float32", "float64")
ENGINES = {"tiled": tiled_engine} | {
    name: functools.partial(blas_engine, library=name)
    for name in LIBRARIES
    if find_library(name) is not None
}
GUARD = 3
UNTOUCHED = -12345.0


@kernel
def product(engine, out, a, transpose_a, b, transpose_b, accumulate, m, n, k):  # type: ignore[no-untyped-def]
    """The product of the first rows and columns of wider arrays, into the middle of ``out``."""
    first = a[:k, :m] if transpose_a else a[:m, :k]
    second = b[:n, :k] if transpose_b else b[:k, :n]
    target = out[GUARD : GUARD + m, GUARD : GUARD + n]
    matmul(engine, target, first, transpose_a, second, transpose_b, accumulate)


@kernel
def first_wrong(engine, out, a, transpose_a, b, transpose_b, accumulate, expected, n_max, k):  # type: ignore[no-untyped-def]
    """Try each M and N that fits ``expected``; the first (M, N) with a wrong or stray element.

    What ``out`` holds inside is 1 where it is added to, and NaN where it must be overwritten.
    """
    n_tried = 0
    for m in range(expected.shape[0] + 1):
        for n in range(n_max + 1):
            out[:] = UNTOUCHED
            for i in range(m):
                for j in range(n):
                    out[GUARD + i, GUARD + j] = 1.0 if accumulate else np.nan
            product(engine, out, a, transpose_a, b, transpose_b, accumulate, m, n, k)
            n_tried += 1
            for i in range(out.shape[0]):
                for j in range(out.shape[1]):
                    value = UNTOUCHED
                    if GUARD <= i < GUARD + m and GUARD <= j < GUARD + n:
                        value = expected[i - GUARD, j - GUARD] + (1.0 if accumulate else 0.0)
                    if not out[i, j] == value:
                        return m, n, n_tried
    return -1, -1, n_tried


def whole_numbers(rng: np.random.Generator, shape: tuple[int, int], dtype: str) -> Any:
    """Small integers: their products have no rounding, so any order of summing must be exact."""
    return rng.integers(-4, 5, shape).astype(dtype)


def depths(dtype: str) -> list[int]:
    """K around the width of a vector and the borders of blocks."""
    lanes, depth = lanes_of(np.dtype(dtype).itemsize), DEPTH_BYTES // np.dtype(dtype).itemsize
    return [0, 1, 2, 3, lanes - 1, lanes, lanes + 1, 37, depth - 1, depth, depth + 1, 2 * depth + 1]


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_edge_of_the_tile(
    dtype: str, transpose_a: bool, transpose_b: bool, accumulate: bool
) -> None:
    m_max, n_max = 2 * ROWS, 2 * panel_columns(np.dtype(dtype).itemsize)
    rng = np.random.default_rng(1)
    engine = tiled_engine(dtype)
    for k in depths(dtype):
        # beyond one block the paths of a depth repeat, so fewer columns will do
        columns = n_max if k < 100 else panel_columns(np.dtype(dtype).itemsize) + 1
        a = whole_numbers(rng, (k + 1, m_max + 2) if transpose_a else (m_max, k + 2), dtype)
        b = whole_numbers(rng, (n_max, k + 3) if transpose_b else (k + 1, n_max + 1), dtype)
        before = a.copy(), b.copy()
        left = (a.T if transpose_a else a)[:m_max, :k].astype(np.float64)
        right = (b.T if transpose_b else b)[:k, :n_max].astype(np.float64)
        out = np.empty((m_max + 2 * GUARD, n_max + 2 * GUARD), dtype)
        flags = (a, transpose_a, b, transpose_b, accumulate)
        m, n, n_tried = first_wrong(engine, out, *flags, left @ right, columns, k)
        assert (m, n) == (-1, -1), f"wrong at M {m}, N {n}, K {k}"
        assert n_tried == (m_max + 1) * (columns + 1)
        np.testing.assert_array_equal(a, before[0])
        np.testing.assert_array_equal(b, before[1])


def test_the_check_of_edges_can_fail() -> None:
    a, b = np.ones((4, 3), np.float32), np.ones((3, 5), np.float32)
    out = np.empty((4 + 2 * GUARD, 5 + 2 * GUARD), np.float32)
    expected = np.full((4, 5), 3.0)
    expected[2, 1] = 4.0
    engine = tiled_engine("float32")
    found = first_wrong(engine, out, a, False, b, False, False, expected, 5, 3)
    assert found[:2] == (3, 2)


def around(*borders: int) -> st.SearchStrategy[int]:
    """Sizes near the borders of blocks as often as anywhere below them."""
    near = [st.integers(border - 2, border + 2) for border in borders]
    return st.one_of(st.integers(1, borders[-1]), *near)


@given(
    m=around(HEIGHT, 2 * HEIGHT),
    n=around(COLUMNS, 2 * COLUMNS),
    k=around(DEPTH_BYTES // 8, DEPTH_BYTES // 4, DEPTH_BYTES // 2),
    dtype=st.sampled_from(DTYPES),
    transpose_a=st.booleans(),
    transpose_b=st.booleans(),
    accumulate=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60)
def test_large_products_agree_with_float64_and_between_engines(
    m: int,
    n: int,
    k: int,
    dtype: str,
    transpose_a: bool,
    transpose_b: bool,
    accumulate: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((k, m + 1) if transpose_a else (m, k + 1)).astype(dtype)
    b = rng.standard_normal((n, k + 2) if transpose_b else (k, n + 2)).astype(dtype)
    start = rng.standard_normal((m + 2 * GUARD, n + 2 * GUARD)).astype(dtype)
    left = (a.T if transpose_a else a)[:m, :k].astype(np.float64)
    right = (b.T if transpose_b else b)[:k, :n].astype(np.float64)
    middle = (slice(GUARD, GUARD + m), slice(GUARD, GUARD + n))
    expected = start.astype(np.float64)
    expected[middle] = left @ right + (start[middle] if accumulate else 0.0)
    # Higham 2002, section 3.5: |error| <= K u |A| |B|, and one more rounding for the sum
    bound = np.zeros_like(expected)
    bound[middle] = np.abs(left) @ np.abs(right) + np.abs(start[middle])
    bound *= (k + 1) * np.finfo(dtype).eps
    for name, make in ENGINES.items():
        out = start.copy()
        product(make(dtype), out, a, transpose_a, b, transpose_b, accumulate, m, n, k)
        wrong = ~(np.abs(out - expected) <= bound)
        assert not wrong.any(), (
            f"{name}: {wrong.sum()} elements, the first at {np.argwhere(wrong)[0]}"
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ENGINES)
def test_empty_products(name: str, dtype: str) -> None:
    engine = ENGINES[name](dtype)
    for m, n, k in ((0, 5, 3), (4, 0, 3), (4, 5, 0), (0, 0, 0)):
        for accumulate in (False, True):
            out = np.full((m, n), 7, dtype)
            a, b = np.ones((m, k), dtype), np.ones((n, k), dtype)
            matmul(engine, out, a, False, b, True, accumulate)
            np.testing.assert_array_equal(out, np.full((m, n), 7 if accumulate else 0, dtype))


@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("name", ENGINES)
def test_nan_and_infinity_go_through(name: str, transpose_a: bool, transpose_b: bool) -> None:
    rng = np.random.default_rng(2)
    m, n, k = 2 * ROWS + 3, panel_columns(4) + 5, 40
    a, b = (whole_numbers(rng, shape, "float32") for shape in ((m, k), (k, n)))
    a[1, 3], a[m - 1, 0], b[7, n - 1], b[2, 4] = np.nan, np.inf, -np.inf, np.nan
    with np.errstate(invalid="ignore"):
        expected = a.astype(np.float64) @ b.astype(np.float64)
    stored_a = np.ascontiguousarray(a.T) if transpose_a else a
    stored_b = np.ascontiguousarray(b.T) if transpose_b else b
    out = np.empty((m, n), np.float32)
    matmul(ENGINES[name]("float32"), out, stored_a, transpose_a, stored_b, transpose_b, False)
    np.testing.assert_array_equal(out, expected.astype(np.float32))


@pytest.mark.parametrize("name", ENGINES)
def test_rows_may_be_columns_of_a_wider_array(name: str) -> None:
    """As attention has them: q, k and v side by side in each row."""
    rng = np.random.default_rng(3)
    qkv = whole_numbers(rng, (64, 3 * 32), "float32")
    q, k = qkv[:, :32], qkv[:, 32:64]
    scores = np.empty((64, 64), np.float32)
    matmul(ENGINES[name]("float32"), scores, q, False, k, True, False)
    np.testing.assert_array_equal(scores, q @ k.T)


@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("triangle", [LOWER_OUT, LOWER_A, UPPER_A])
@pytest.mark.parametrize("name", ENGINES)
def test_triangles(name: str, triangle: int, transpose_a: bool, transpose_b: bool) -> None:
    """As the whole product, wherever something is wanted; also over the borders of blocks."""
    rng = np.random.default_rng(7)
    engine = ENGINES[name]("float32")
    panel = panel_columns(4)
    blocks = (HEIGHT + 1, COLUMNS + 1, DEPTH_BYTES // 4 + 1)
    sizes = [(m, n, k) for m in range(1, 3 * ROWS) for n, k in ((19, 5), (33, 23), (panel, m))]
    for m, n, k in [*sizes, blocks]:
        for diagonal in (0, 1, 7, 200):
            i, along_j, along_k = np.arange(m)[:, None], np.arange(n), np.arange(k)
            a, b = (whole_numbers(rng, shape, "float32") for shape in ((m, k), (k, n)))
            wanted = np.ones((m, n), bool)
            if triangle == LOWER_OUT:
                wanted = along_j <= i + diagonal
            elif triangle == LOWER_A:
                a[along_k > i + diagonal] = 0
            else:
                a[along_k < i - diagonal] = 0
            expected = a @ b
            stored_a = np.ascontiguousarray(a.T) if transpose_a else a
            stored_b = np.ascontiguousarray(b.T) if transpose_b else b
            for accumulate in (False, True):
                out = np.full((m, n), 2.0 if accumulate else np.nan, np.float32)
                matmul_triangle(
                    *(engine, out, stored_a, transpose_a, stored_b, transpose_b),
                    *(accumulate, triangle, diagonal),
                )
                found, right = out[wanted], expected[wanted] + (2.0 if accumulate else 0.0)
                assert np.array_equal(found, right), (m, n, k, diagonal, accumulate)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ENGINES)
def test_bits_are_equal_between_runs_and_threads(name: str, dtype: str) -> None:
    rng = np.random.default_rng(4)
    a, b = (aligned_zeros(shape, dtype) for shape in ((130, 700), (500, 700)))
    for x in (a, b):
        x[:] = rng.standard_normal(x.shape)
    expected = aligned_zeros((130, 500), dtype)
    matmul(ENGINES[name](dtype), expected, a, False, b, True, False)
    found: list[Any] = []

    def work(engine: MatmulEngine) -> None:
        for _ in range(5):
            out = aligned_zeros((130, 500), dtype)
            matmul(engine, out, a, False, b, True, False)
            found.append(out)

    threads = [threading.Thread(target=work, args=(ENGINES[name](dtype),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 15
    assert all(out.tobytes() == expected.tobytes() for out in found)


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
def test_bits_do_not_depend_on_how_the_rows_and_columns_are_cut(
    transpose_a: bool, transpose_b: bool
) -> None:
    """A part of a product, but for one of FEW_ROWS rows or less, has the bits of the whole."""
    rng = np.random.default_rng(5)
    m, n, k = 75, 470, 600
    a = rng.standard_normal((k, m) if transpose_a else (m, k)).astype(np.float32)
    b = rng.standard_normal((n, k) if transpose_b else (k, n)).astype(np.float32)
    engine = tiled_engine("float32")
    whole = np.empty((m, n), np.float32)
    matmul(engine, whole, a, transpose_a, b, transpose_b, False)
    cut = np.empty((m, n), np.float32)
    for rows in (slice(0, 33), slice(33, m)):
        for columns in (slice(0, 101), slice(101, n)):
            first = a[:, rows] if transpose_a else a[rows]
            second = b[columns] if transpose_b else b[:, columns]
            matmul(engine, cut[rows, columns], first, transpose_a, second, transpose_b, False)
    assert cut.tobytes() == whole.tobytes()


def test_bits_of_few_rows_do_not_depend_on_their_number() -> None:
    """So a sample is the same whether few others are drawn beside it or none."""
    rng = np.random.default_rng(6)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((FEW_ROWS, 77), (90, 77)))
    engine = tiled_engine("float32")
    together = np.empty((FEW_ROWS, 90), np.float32)
    matmul(engine, together, a, False, b, True, False)
    for i in range(FEW_ROWS):
        alone = np.empty((1, 90), np.float32)
        matmul(engine, alone, a[i : i + 1], False, b, True, False)
        assert alone.tobytes() == together[i].tobytes()
