"""Attention: what it may look at, its forward against the decoder's, its backward against
autograd with the masks of dropout held, in one block of rows and in several."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bptool.ops.attention import BLOCK, attention_backward, attention_forward
from bptool.ops.attention_decode import PAGE, QUERIES, attention_decode
from bptool.ops.documents import ONE_DOCUMENT
from bptool.ops.dropout import MaskKey, dropout_row, mask_scratch
from bptool.ops.matmul import blas_engine, tiled_engine

B, H, T, D = 2, 3, 11, 5
C = H * D
KEY, SITE = MaskKey(9, 4, 6), 5
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


def inputs(dtype: str, n_time: int = T) -> tuple[Any, Any]:
    generator = np.random.default_rng(0)
    return tuple(generator.standard_normal((B * n_time, w)).astype(dtype) for w in (3 * C, C))  # type: ignore[return-value]


def scratch_for(qkv: Any) -> Any:
    return np.full((2, BLOCK, len(qkv) // B), np.nan, qkv.dtype)


def forward(
    qkv: Any, p: float = 0.0, make_engine: Any = tiled_engine, starts: Any = ONE_DOCUMENT
) -> tuple[Any, Any]:
    """The outputs, and what is saved for the backward."""
    y = np.full((len(qkv), C), np.nan, qkv.dtype)
    row_stats = np.full((B, H, len(qkv) // B, 2), np.nan, qkv.dtype)
    engine, scratch = make_engine(qkv.dtype), scratch_for(qkv)
    attention_forward(engine, y, row_stats, scratch, qkv, starts, p, KEY, SITE, 0, B * H)
    return y, row_stats


def backward(
    qkv: Any,
    dy: Any,
    row_stats: Any,
    p: float = 0.0,
    make_engine: Any = tiled_engine,
    starts: Any = ONE_DOCUMENT,
) -> Any:
    dqkv = np.full_like(qkv, np.nan)
    engine, scratch = make_engine(qkv.dtype), scratch_for(qkv)
    attention_backward(engine, dqkv, dy, row_stats, scratch, qkv, starts, p, KEY, SITE, 0, B * H)
    return dqkv


def weights_of_torch(torch: Any, q: Any, k: Any) -> Any:
    later = torch.ones(q.shape[2], q.shape[2]).triu(1).bool()
    return (q @ k.transpose(2, 3) / D**0.5).masked_fill(later, -torch.inf).softmax(-1)


def masks(p: float, n_time: int) -> Any:
    """What dropout multiplies the weights with, (B, H, T, T) float64."""
    out = np.zeros((B, H, n_time, n_time))
    for i in range(B):
        for h in range(H):
            for t in range(n_time):
                row = np.ones(n_time)
                index = ((KEY.sequence0 + i) * H + h) * n_time + t
                dropout_row(row, t + 1, p, KEY, SITE, index, mask_scratch(row))
                out[i, h, t, : t + 1] = row[: t + 1]
    return out


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_time", [T, 2 * BLOCK + 3])
@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("make_engine", [tiled_engine, blas_engine])
def test_forward_and_backward_equal_autograd(
    dtype: str, n_time: int, p: float, make_engine: Any
) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; see CONTRIBUTING.md")
    qkv, dy = inputs(dtype, n_time)
    y, row_stats = forward(qkv, p, make_engine)
    dqkv = backward(qkv, dy, row_stats, p, make_engine)

    leaf = torch.tensor(qkv, dtype=torch.float64, requires_grad=True)
    q, k, v = (t.view(B, n_time, H, D).transpose(1, 2) for t in leaf.split(C, dim=1))
    weights = weights_of_torch(torch, q, k)
    dropped = weights * torch.tensor(masks(p, n_time)) if p else weights
    want = (dropped @ v).transpose(1, 2).reshape(B * n_time, C)
    want.backward(torch.tensor(dy, dtype=torch.float64))
    tolerance = TOLERANCE[dtype]
    for found, reference in ((y, want.detach().numpy()), (dqkv, leaf.grad.numpy())):
        assert np.linalg.norm(found - reference) <= tolerance * np.linalg.norm(reference)


def test_no_position_sees_a_later_one() -> None:
    qkv, dy = inputs("float32")
    y, row_stats = forward(qkv)
    changed = qkv.copy().reshape(B, T, -1)
    changed[:, 7:] += 3
    later, _ = forward(changed.reshape(B * T, -1))
    assert np.array_equal(later.reshape(B, T, C)[:, :7], y.reshape(B, T, C)[:, :7])
    assert not np.allclose(later.reshape(B, T, C)[:, 7:], y.reshape(B, T, C)[:, 7:])
    early = dy.copy().reshape(B, T, C)
    early[:, 4:] = 0
    dqkv = backward(qkv, early.reshape(B * T, C), row_stats).reshape(B, T, 3 * C)
    assert np.all(dqkv[:, 4:] == 0)
    assert np.all(np.any(dqkv[:, :4] != 0, axis=2))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("parts", [[T], [1] * T, [4, 1, 6], [10, 1]])
def test_decoding_equals_the_forward_in_any_portions(dtype: str, parts: list[int]) -> None:
    qkv, _ = inputs(dtype)
    want = forward(qkv)[0].reshape(B, T, C)
    n_pages = -(-T // PAGE)
    pages = np.full((B * n_pages, 1, 2, H, PAGE, D), np.nan, dtype)
    table = np.arange(B * n_pages)[::-1].reshape(B, n_pages)  # in any order
    scores = np.full((QUERIES, n_pages * PAGE), np.nan, dtype)
    start = 0
    for n_new in parts:
        rows = np.ascontiguousarray(qkv.reshape(B, T, -1)[:, start : start + n_new])
        runs = np.array([(i * n_new, n_new, i, start) for i in range(B)])
        y = np.full((B * n_new, C), np.nan, dtype)
        for job in range(B * H):  # each could be another member's
            attention_decode(
                *(y, pages, 0, table, runs, rows.reshape(B * n_new, -1), scores, job, job + 1)
            )
        part = want[:, start : start + n_new]
        assert y.reshape(B, n_new, C) == pytest.approx(part, abs=TOLERANCE[dtype])
        start += n_new


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_weights_sum_to_one_even_for_huge_scores(size: float) -> None:
    qkv, _ = inputs("float32")
    qkv[:, : 2 * C] *= np.float32(size)
    qkv[:, 2 * C :] = 1
    y, _ = forward(qkv)
    assert y == pytest.approx(np.ones((B * T, C)), abs=1e-5)


def test_huge_scores_have_exact_weights_in_the_backward_too() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; see CONTRIBUTING.md")
    qkv, dy = inputs("float32", 2 * BLOCK + 3)
    qkv[:, : 2 * C] *= np.float32(1e4)  # scores near 1e8, where float32 counts in eights
    _, row_stats = forward(qkv)
    dv = backward(qkv, dy, row_stats)[:, 2 * C :]
    q, k = (
        torch.tensor(part, dtype=torch.float64).view(B, -1, H, D).transpose(1, 2)
        for part in (qkv[:, :C].copy(), qkv[:, C : 2 * C].copy())
    )
    d_out = torch.tensor(dy, dtype=torch.float64).view(B, -1, H, D).transpose(1, 2)
    want = weights_of_torch(torch, q, k).transpose(2, 3) @ d_out
    want = want.transpose(1, 2).reshape(dv.shape).numpy()
    assert np.linalg.norm(dv - want) <= 1e-5 * np.linalg.norm(want)


def test_not_a_number_is_not_hidden() -> None:
    qkv, _ = inputs("float32")
    qkv[3, 2] = np.nan  # the query of position 3 in sequence 0, head 0
    y, _ = forward(qkv)
    assert np.all(np.isnan(y[3, :D]))
    assert np.all(np.isfinite(y[:3]))


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_heads_of_a_group_share_keys_and_values(p: float) -> None:
    """As H heads of which those of a group have equal keys and values; gradients add up."""
    n_head, n_kv, head, n = 6, 2, 4, T
    rng = np.random.default_rng(3)
    qkv = rng.normal(size=(B * n, (n_head + 2 * n_kv) * head))
    q, k, v = np.split(qkv.reshape(B * n, -1, head), [n_head, n_head + n_kv], axis=1)
    repeated = [np.repeat(part, n_head // n_kv, axis=1) for part in (k, v)]
    whole = np.concatenate([q, *repeated], axis=1).reshape(B * n, -1)
    dy = rng.normal(size=(B * n, n_head * head))
    found = []
    for columns in (qkv, whole):
        y, d = np.full_like(dy, np.nan), np.full_like(columns, np.nan)
        stats = np.full((B, n_head, n, 2), np.nan)
        engine, scratch = tiled_engine(np.float64), scratch_for(columns)
        same = (stats, scratch, columns, ONE_DOCUMENT, p, KEY, SITE)
        for jobs in ((0, n_head), (n_head, B * n_head)):
            attention_forward(engine, y, *same, *jobs)
        for jobs in ((0, n_head), (n_head, B * n_head)):
            attention_backward(engine, d, dy, *same, *jobs)
        found.append((y, d.reshape(B * n, -1, head)))
    (y, d), (want_y, want_d) = found
    assert np.array_equal(y, want_y)
    assert np.array_equal(d[:, :n_head], want_d[:, :n_head])
    summed = want_d[:, n_head:].reshape(B * n, 2 * n_kv, n_head // n_kv, head).sum(2)
    assert d[:, n_head:] == pytest.approx(summed, rel=1e-10, abs=1e-12)
