"""Attention: what it may look at, its forward against the decoder's, its backward against
autograd with the masks of dropout held."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bptool.ops.attention import attention_backward, attention_forward
from bptool.ops.attention_decode import PAGE, QUERIES, attention_decode
from bptool.ops.dropout import MaskKey, dropout_row, mask_scratch
from bptool.ops.matmul import blas_engine, tiled_engine

B, H, T, D = 2, 3, 11, 5
C = H * D
KEY, SITE = MaskKey(9, 4, 6), 5
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


def inputs(dtype: str, seed: int = 0) -> tuple[Any, Any]:
    generator = np.random.default_rng(seed)
    return tuple(generator.standard_normal((B * T, w)).astype(dtype) for w in (3 * C, C))  # type: ignore[return-value]


def forward(qkv: Any, p: float = 0.0, make_engine: Any = tiled_engine) -> tuple[Any, Any]:
    dtype = qkv.dtype
    y, probs = np.full((B * T, C), np.nan, dtype), np.full((B, H, T, T), np.nan, dtype)
    scratch = np.full((2, T, T), np.nan, dtype)
    attention_forward(make_engine(dtype), y, probs, scratch, qkv, p, KEY, SITE, 0, B * H)
    return y, probs


def backward(qkv: Any, dy: Any, probs: Any, p: float = 0.0, make_engine: Any = tiled_engine) -> Any:
    dqkv, scratch = np.full_like(qkv, np.nan), np.full((2, T, T), np.nan, qkv.dtype)
    engine = make_engine(qkv.dtype)
    attention_backward(engine, dqkv, dy, probs, scratch, qkv, p, KEY, SITE, 0, B * H)
    return dqkv


def masks(p: float) -> Any:
    """What dropout multiplies the weights with, (B, H, T, T) float64."""
    out = np.zeros((B, H, T, T))
    for i in range(B):
        for h in range(H):
            for t in range(T):
                row = np.ones(T)
                index = ((KEY.sequence0 + i) * H + h) * T + t
                dropout_row(row, t + 1, p, KEY, SITE, index, mask_scratch(row))
                out[i, h, t, : t + 1] = row[: t + 1]
    return out


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("make_engine", [tiled_engine, blas_engine])
def test_forward_and_backward_equal_autograd(dtype: str, p: float, make_engine: Any) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; see CONTRIBUTING.md")
    qkv, dy = inputs(dtype)
    y, probs = forward(qkv, p, make_engine)
    dqkv = backward(qkv, dy, probs, p, make_engine)

    leaf = torch.tensor(qkv, dtype=torch.float64, requires_grad=True)
    q, k, v = (t.view(B, T, H, D).transpose(1, 2) for t in leaf.split(C, dim=1))
    scores = (q @ k.transpose(2, 3) / D**0.5).masked_fill(
        torch.ones(T, T).triu(1).bool(), -torch.inf
    )
    weights = scores.softmax(-1)
    dropped = weights * torch.tensor(masks(p)) if p else weights
    want = (dropped @ v).transpose(1, 2).reshape(B * T, C)
    want.backward(torch.tensor(dy, dtype=torch.float64))
    tolerance = TOLERANCE[dtype]
    for found, reference in (
        (y, want.detach().numpy()),
        (probs, weights.detach().numpy()),
        (dqkv, leaf.grad.numpy()),
    ):
        assert np.linalg.norm(found - reference) <= tolerance * np.linalg.norm(reference)


def test_no_position_sees_a_later_one() -> None:
    qkv, dy = inputs("float32")
    y, probs = forward(qkv)
    assert np.all(np.triu(probs, 1) == 0)
    assert probs.sum(-1) == pytest.approx(np.ones((B, H, T)), abs=1e-6)
    changed = qkv.copy().reshape(B, T, -1)
    changed[:, 7:] += 3
    later, _ = forward(changed.reshape(B * T, -1))
    assert np.array_equal(later.reshape(B, T, C)[:, :7], y.reshape(B, T, C)[:, :7])
    assert not np.allclose(later.reshape(B, T, C)[:, 7:], y.reshape(B, T, C)[:, 7:])
    early = dy.copy().reshape(B, T, C)
    early[:, 4:] = 0
    dqkv = backward(qkv, early.reshape(B * T, C), probs).reshape(B, T, 3 * C)
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


def test_huge_scores_do_not_overflow() -> None:
    qkv, _ = inputs("float32")
    y, probs = forward(qkv * np.float32(1e4))
    assert np.all(np.isfinite(y))
    assert probs.sum(-1) == pytest.approx(np.ones((B, H, T)), abs=1e-5)


def test_not_a_number_is_not_hidden() -> None:
    qkv, _ = inputs("float32")
    qkv[3, 2] = np.nan  # the query of position 3 in sequence 0, head 0
    y, _ = forward(qkv)
    assert np.all(np.isnan(y[3, :D]))
    assert np.all(np.isfinite(y[:3]))
