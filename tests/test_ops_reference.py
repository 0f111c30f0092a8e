"""Each operation, forward and backward, against PyTorch on the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bptool.objectives.next_token import (
    next_token_backward,
    next_token_forward,
    next_token_penalty,
)
from bptool.ops.activations import ACTIVATIONS, activation_backward, activation_forward
from bptool.ops.documents import ONE_DOCUMENT
from bptool.ops.embedding import embedding_backward, embedding_forward
from bptool.ops.gate import gate_backward, gate_forward
from bptool.ops.layernorm import layernorm_backward, layernorm_forward
from bptool.ops.linear import linear_backward, linear_backward_parameters, linear_forward
from bptool.ops.logit_terms import LogitTerms, logit_terms_backward, logit_terms_forward
from bptool.ops.matmul import blas_engine, tiled_engine
from bptool.ops.qk_norm import qk_norm_backward, qk_norm_forward
from bptool.ops.reduction import add_into
from bptool.ops.rmsnorm import rmsnorm_backward, rmsnorm_forward
from bptool.ops.rotary import rotary_angles, rotary_backward, rotary_forward
from bptool.ops.team import ALONE
from bptool.ops.token_logprob import token_logprob_backward, token_logprob_forward
from bptool.ops.window import window_backward, window_forward

torch = pytest.importorskip("torch", reason="PyTorch is not installed; see CONTRIBUTING.md")
F = torch.nn.functional

Dtype = Any
pytestmark = pytest.mark.parametrize("dtype", ["float32", "float64"])
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
N, IN, OUT = 13, 10, 7  # odd sizes, so that no vector width divides them


def draw(dtype: str, *shapes: tuple[int, ...], seed: int = 0) -> list[Any]:
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(shape).astype(dtype) for shape in shapes]


def reference(function: Callable[..., Any], d_out: Any, *arrays: Any) -> tuple[Any, list[Any]]:
    """Value of ``function`` in float64, and the gradient of each of its arguments."""
    leaves = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in arrays]
    out = function(*leaves)
    out.backward(torch.tensor(d_out, dtype=torch.float64))
    return out.detach().numpy(), [leaf.grad.numpy() for leaf in leaves]


def assert_close(found: Any, want: Any, dtype: str) -> None:
    assert found.dtype == dtype
    assert np.linalg.norm(found - want) <= TOLERANCE[dtype] * np.linalg.norm(want)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("make_engine", [tiled_engine, blas_engine])
def test_linear(dtype: str, bias: bool, make_engine: Any) -> None:
    x, w, dy, dw, db = draw(dtype, (N, IN), (OUT, IN), (N, OUT), (OUT, IN), (OUT,))
    b = db[::-1].copy() if bias else np.empty(0, dtype)
    db = db if bias else b
    before_w, before_b = dw.copy(), db.copy()
    y, dx = np.full((N, OUT), np.nan, dtype), np.full((N, IN), np.nan, dtype)
    engine = make_engine(dtype)
    linear_forward(engine, y, x, w, b, ALONE)
    linear_backward(engine, dx, dw, db, dy, x, w, True, ALONE)
    arguments = (x, w, b) if bias else (x, w)
    want, grads = reference(F.linear, dy, *arguments)
    assert_close(y, want, dtype)
    assert_close(dx, grads[0], dtype)
    assert_close(dw - before_w, grads[1], dtype)  # parameter gradients add
    if bias:
        assert_close(db - before_b, grads[2], dtype)
    alone_w, alone_b = before_w.copy(), before_b.copy()
    linear_backward_parameters(engine, alone_w, alone_b, dy, x, True, ALONE)
    assert np.array_equal(alone_w, dw)
    assert np.array_equal(alone_b, db)
    stored_w, zeros_b = np.full_like(dw, np.nan), np.zeros_like(db)
    linear_backward_parameters(engine, stored_w, zeros_b, dy, x, False, ALONE)
    assert_close(stored_w, grads[1], dtype)


@pytest.mark.parametrize("bias", [True, False])
def test_layernorm(dtype: str, bias: bool) -> None:
    x, dy, w, dx, dw, db = draw(dtype, (N, IN), (N, IN), (IN,), (N, IN), (IN,), (IN,))
    x = x * 3 + 5
    b = db[::-1].copy() if bias else np.empty(0, dtype)
    db = db if bias else b
    before = [a.copy() for a in (dx, dw, db)]
    y, mean, rstd = np.full_like(x, np.nan), np.empty(N, dtype), np.empty(N, dtype)
    layernorm_forward(y, mean, rstd, x, w, b)
    layernorm_backward(dx, dw, db, dy, x, mean, rstd, w)

    def layer_norm(x: Any, w: Any, b: Any = None) -> Any:
        return F.layer_norm(x, (IN,), w, b, 1e-5)

    want, grads = reference(layer_norm, dy, *((x, w, b) if bias else (x, w)))
    assert_close(y, want, dtype)
    assert_close(mean, x.astype(np.float64).mean(1), dtype)
    for found, was, grad in zip((dx, dw, db), before, grads, strict=False):
        assert_close(found - was, grad, dtype)


def test_rmsnorm(dtype: str) -> None:
    x, dy, w, dx, dw = draw(dtype, (N, IN), (N, IN), (IN,), (N, IN), (IN,))
    x = x * 3 + 5
    before = dx.copy(), dw.copy()
    y, rstd = np.full_like(x, np.nan), np.empty(N, dtype)
    rmsnorm_forward(y, rstd, x, w, 1e-5)
    rmsnorm_backward(dx, dw, dy, x, rstd, w)
    want, grads = reference(lambda x, w: F.rms_norm(x, (IN,), w, 1e-5), dy, x, w)
    assert_close(y, want, dtype)
    for found, was, grad in zip((dx, dw), before, grads, strict=True):
        assert_close(found - was, grad, dtype)


@pytest.mark.parametrize("kind", ["relu", "gelu", "gelu_tanh", "silu"])
def test_gate(dtype: str, kind: str) -> None:
    x, dy = draw(dtype, (N, 2 * IN), (N, IN))
    x *= 3
    y, slope, dx = np.full_like(dy, np.nan), np.full_like(dy, np.nan), np.full_like(x, np.nan)
    gate_forward(ACTIVATIONS[kind], y, slope, x)
    gate_backward(ACTIVATIONS[kind], dx, dy, x)
    function = {"gelu_tanh": lambda x: F.gelu(x, approximate="tanh")}.get(
        kind, getattr(F, kind, None)
    )
    want, (grad,) = reference(lambda x: function(x[:, :IN]) * x[:, IN:], dy, x)
    assert_close(y, want, dtype)
    assert_close(dx, grad, dtype)


N_HEAD, N_KV, HEAD, N_TIME = 6, 2, 8, 7


def test_rotary(dtype: str) -> None:
    """As Llama's weights for Hugging Face want it: x cos + rotate_half(x) sin."""
    qkv, d = draw(dtype, *[(2 * N_TIME, (N_HEAD + 2 * N_KV) * HEAD)] * 2)
    starts = np.array([[0] * N_TIME, [0, 0, 0, 3, 3, 3, 3]], np.int32)
    angles = rotary_angles(N_TIME, HEAD, 10000.0, dtype)
    y, dx = qkv.copy(), d.copy()
    for first, stop in ((0, N_HEAD), (N_HEAD, 2 * N_HEAD)):
        rotary_forward(y, angles, starts, N_HEAD, N_TIME, first, stop)
        rotary_backward(dx, angles, starts, N_HEAD, N_TIME, first, stop)

    def turned(x: Any) -> Any:
        x = x.view(2, N_TIME, -1, HEAD)
        position = torch.arange(N_TIME) - torch.tensor(starts)
        angle = position[..., None] * 10000.0 ** (-torch.arange(0, HEAD, 2, dtype=x.dtype) / HEAD)
        angle = torch.cat([angle, angle], 2)[:, :, None]
        halves = torch.cat([-x[..., HEAD // 2 :], x[..., : HEAD // 2]], 3)
        both = x * angle.cos() + halves * angle.sin()
        of_v = N_HEAD + N_KV
        return torch.cat([both[:, :, :of_v], x[:, :, of_v:]], 2).reshape(2 * N_TIME, -1)

    want, (grad,) = reference(turned, d, qkv)
    assert_close(y, want, dtype)
    assert_close(dx, grad, dtype)
    still = qkv.copy()
    rotary_forward(still, angles[:0], starts, N_HEAD, N_TIME, 0, 2 * N_HEAD)
    assert np.array_equal(still, qkv)


def test_norm_of_queries_and_keys(dtype: str) -> None:
    n, of_v = 2 * N_TIME, (N_HEAD + N_KV) * HEAD
    qkv, d = draw(dtype, *[(n, of_v + N_KV * HEAD)] * 2)
    w_q, w_k, dw_q, dw_k = draw(dtype, *[(HEAD,)] * 4, seed=1)
    before = dw_q.copy(), dw_k.copy()
    y, raw, rstd = qkv.copy(), np.empty((n, of_v), dtype), np.empty((n, N_HEAD + N_KV), dtype)
    partial = np.full((1, 2, HEAD), np.nan, dtype)
    jobs = N_HEAD, N_TIME, 0, 2 * N_HEAD
    qk_norm_forward(y, raw, rstd, w_q, w_k, 1e-6, *jobs)
    dx = d.copy()
    qk_norm_backward(dx, dw_q, dw_k, raw, rstd, w_q, w_k, partial, *jobs, ALONE)

    def normed(x: Any, w_q: Any, w_k: Any) -> Any:
        q, k, v = x.view(n, -1, HEAD).split([N_HEAD, N_KV, N_KV], 1)
        parts = F.rms_norm(q, (HEAD,), w_q, 1e-6), F.rms_norm(k, (HEAD,), w_k, 1e-6), v
        return torch.cat(parts, 1).reshape(n, -1)

    want, grads = reference(normed, d, qkv, w_q, w_k)
    assert_close(y, want, dtype)
    assert_close(dx, grads[0], dtype)
    for found, was, grad in zip((dw_q, dw_k), before, grads[1:], strict=True):
        assert_close(found - was, grad, dtype)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activation(dtype: str, kind: str) -> None:
    x, dy = draw(dtype, (N, 501), (N, 501))
    x *= 4
    y, slope, dx = (np.full_like(x, np.nan) for _ in range(3))
    activation_forward(ACTIVATIONS[kind], y, slope, x)
    activation_backward(dx, dy, slope)
    function = {
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "relu": torch.relu,
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "silu": F.silu,
    }[kind]
    want, (grad,) = reference(function, dy, x)
    assert_close(y, want, dtype)
    assert_close(dx, grad, dtype)
    in_place = dy.copy()
    activation_backward(in_place, in_place, slope)
    assert np.array_equal(in_place, dx)


def test_relu_at_zero_has_slope_zero(dtype: str) -> None:
    x = np.zeros((1, 3), dtype)
    y, slope = np.ones_like(x), np.ones_like(x)
    activation_forward(ACTIVATIONS["relu"], y, slope, x)
    assert np.array_equal(y, x)
    assert np.array_equal(slope, x)


def test_embedding(dtype: str) -> None:
    tokens = np.array([[3, 1, 3, 0], [6, 3, 6, 6]], np.int32)
    e, p, dx, de, dp = draw(dtype, (7, IN), (6, IN), (8, IN), (7, IN), (6, IN))
    before = de.copy(), dp.copy()
    x = np.full((8, IN), np.nan, dtype)
    embedding_forward(x, tokens, ONE_DOCUMENT, e, p, ALONE)
    embedding_backward(de, dp, dx, tokens, ONE_DOCUMENT, ALONE)

    def embed(e: Any, p: Any) -> Any:
        return (e[torch.tensor(tokens, dtype=torch.long)] + p[:4]).flatten(0, 1)

    want, (grad_e, grad_p) = reference(embed, dx, e, p)
    assert_close(x, want, dtype)
    assert_close(de - before[0], grad_e, dtype)
    assert_close(dp - before[1], grad_p, dtype)
    second = np.array([[0, 0, 2, 2], [0, 1, 1, 1]], np.int32)
    packed = np.full((8, IN), np.nan, dtype)
    embedding_forward(packed, tokens, second, e, p, ALONE)
    places = np.array([0, 1, 0, 1, 0, 0, 1, 2])
    assert np.array_equal(packed, e[tokens.ravel()] + p[places])


def test_window(dtype: str) -> None:
    tokens = np.array([[3, 1, 3, 0, 2], [6, 3, 6, 6, 1]], np.int32)
    e, dx, de = draw(dtype, (8, 4), (10, 12), (8, 4))
    before = de.copy()
    x = np.full((10, 12), np.nan, dtype)
    window_forward(x, tokens, ONE_DOCUMENT, e, ALONE)
    window_backward(de, dx, tokens, ONE_DOCUMENT, ALONE)

    def windows(e: Any) -> Any:
        blank = torch.full((2, 2), 7)
        padded = torch.cat([blank, torch.tensor(tokens, dtype=torch.long)], 1)
        return e[padded.unfold(1, 3, 1)].flatten(2).flatten(0, 1)

    want, (grad,) = reference(windows, dx, e)
    assert_close(x, want, dtype)
    assert_close(de - before, grad, dtype)


@pytest.mark.parametrize("size", [1.0, 60.0])
def test_cross_entropy_through_the_log_probabilities(dtype: str, size: float) -> None:
    (logits,) = draw(dtype, (N, 31))
    logits *= np.array(size, dtype)
    targets = np.random.default_rng(1).integers(0, 31, N).astype(np.int32)
    targets[[2, 7]] = -1
    inverse = 1 / (N - 2)
    want, (grad,) = reference(
        lambda x: F.cross_entropy(
            x, torch.tensor(targets, dtype=torch.long), ignore_index=-1
        ).reshape(1),
        np.ones(1),
        logits,
    )
    logp, log_sum, dlogp = (np.full(N, np.nan, dtype) for _ in range(3))
    token_logprob_forward(logp, log_sum, logits, targets)
    loss = next_token_forward(logp, targets, inverse)
    next_token_backward(dlogp, targets, inverse)
    token_logprob_backward(logits, dlogp, log_sum, targets)
    assert loss == pytest.approx(float(want[0]), rel=TOLERANCE[dtype])
    assert_close(logits, grad, dtype)
    assert np.all(logp[targets < 0] == 0)
    assert np.all(logits[targets < 0] == 0)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("z_loss", [0.0, 0.05])
def test_label_smoothing_and_z_loss(dtype: str, smoothing: float, z_loss: float) -> None:
    (logits,) = draw(dtype, (N, 31))
    logits = 4 * logits + 2
    targets = np.random.default_rng(1).integers(0, 31, N).astype(np.int32)
    targets[[2, 7]] = -1
    inverse = 1 / (N - 2)

    def smoothed(x: Any) -> Any:
        long = torch.tensor(targets, dtype=torch.long)
        loss = F.cross_entropy(x, long, ignore_index=-1, label_smoothing=smoothing)
        return (loss + z_loss * (x[long >= 0].logsumexp(1) ** 2).mean()).reshape(1)

    want, (grad,) = reference(smoothed, np.ones(1), logits)
    logp, log_sum, added, dlogp = (np.full(N, np.nan, dtype) for _ in range(4))
    terms = LogitTerms(smoothing, z_loss)
    token_logprob_forward(logp, log_sum, logits, targets)
    logit_terms_forward(added, log_sum, logits, targets, terms)
    loss = next_token_forward(logp, targets, inverse) + next_token_penalty(added, inverse)
    next_token_backward(dlogp, targets, inverse)
    plain = logits.copy()
    token_logprob_backward(plain, dlogp, log_sum, targets)
    logit_terms_backward(logits, dlogp, log_sum, targets, terms)
    assert loss == pytest.approx(float(want[0]), rel=TOLERANCE[dtype])
    assert_close(logits, grad, dtype)
    assert np.all(added[targets < 0] == 0)
    assert np.all(logits[targets < 0] == 0)
    if terms == (0.0, 0.0):
        assert np.array_equal(logits, plain)
        assert not added.any()


def test_a_logit_that_is_no_number_spoils_the_loss_openly(dtype: str) -> None:
    for place in range(9):
        (logits,) = draw(dtype, (1, 9))
        logits[0, place] = np.nan
        logp, log_sum = np.zeros(1, dtype), np.zeros(1, dtype)
        token_logprob_forward(logp, log_sum, logits, np.array([3], np.int32))
        assert np.isnan(logp[0])


def test_reduction(dtype: str) -> None:
    total, part = draw(dtype, (1003,), (1003,))
    want = total + part
    add_into(total, part)
    assert np.array_equal(total, want)
