"""Every gradient of every model against PyTorch's autograd on the same weights and batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptool.models.mlp import MLP, MLPConfig
from bptool.models.presets import GPT2, GPT2Config
from bptool.ops import head
from bptool.ops.dropout import MaskKey, dropout
from bptool.ops.logit_terms import NO_TERMS, LogitTerms
from bptool.ops.matmul import blas_engine, tiled_engine
from bptool.ops.matmul.target import ROWS
from bptool.ops.stochastic_depth import stochastic_depth

pytest.importorskip("torch", reason="PyTorch is not installed; see CONTRIBUTING.md")

import torch
import torch_models

N_VOCAB = 37
NO_MASKS = MaskKey(0, 0, 0)
GPT2_CONFIGS = [
    GPT2Config(n_layer=2, n_head=2, n_embd=32, context=16),
    GPT2Config(n_layer=3, n_head=4, n_embd=32, context=16, bias=False, activation="gelu_tanh"),
    GPT2Config(n_layer=1, n_head=1, n_embd=10, context=7, activation="relu"),
    GPT2Config(n_layer=2, n_head=3, n_embd=33, context=9, tie_embeddings=False),
]
MLP_CONFIGS = [
    MLPConfig(window=3, n_embd=5, n_hidden=17, n_layer=1, context=8),
    MLPConfig(window=4, n_embd=6, n_hidden=16, n_layer=3, context=8, activation="gelu"),
    MLPConfig(window=1, n_embd=6, n_hidden=16, n_layer=2, context=8, activation="sigmoid"),
    MLPConfig(window=9, n_embd=6, n_hidden=16, n_layer=2, context=8, activation="relu"),
]
CASES = [(GPT2, c, torch_models.gpt2_logits) for c in GPT2_CONFIGS] + [
    (MLP, c, torch_models.mlp_logits) for c in MLP_CONFIGS
]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-10)])
@pytest.mark.parametrize("terms", [NO_TERMS, LogitTerms(0.2, 0.01)], ids=["plain", "terms"])
@pytest.mark.parametrize(("model_class", "config", "logits_of"), CASES)
def test_gradients_equal_autograd(
    model_class: Any, config: Any, logits_of: Any, terms: LogitTerms, dtype: str, tolerance: float
) -> None:
    model = model_class(config, N_VOCAB)
    generator = np.random.default_rng(5)
    buffer, gradient = model.layout.allocate(dtype), model.layout.allocate(dtype)
    model.initialise(buffer, 3)
    buffer += 0.1 * generator.standard_normal(buffer.size).astype(dtype)
    tokens = generator.integers(0, N_VOCAB, (3, config.context)).astype(np.int32)
    targets = generator.integers(0, N_VOCAB, (3, config.context)).astype(np.int32)
    targets[1, 2:] = -1
    n_targets = int((targets >= 0).sum())
    acts = model.workspace(3, config.context, dtype, blas_engine(dtype))
    params = model.params(buffer)
    found = model.loss_and_gradient(
        *(params, model.params(gradient), acts, tokens, targets, 1 / n_targets, NO_MASKS),
        terms=terms,
    )
    plain = model.loss(params, acts, tokens, targets) / n_targets
    total = model.loss(params, acts, tokens, targets, terms=terms) / n_targets
    ours = model.layout.named(gradient)
    want_loss, want = torch_models.loss_and_gradients(
        logits_of, config, model.layout.named(buffer), tokens, targets, *terms
    )
    assert found.loss == pytest.approx(plain, rel=tolerance)
    assert found.loss + found.penalty == pytest.approx(want_loss, rel=tolerance)
    assert total == pytest.approx(want_loss, rel=tolerance)
    assert (found.penalty == 0) == (terms == NO_TERMS)
    same_gradients(ours, want, tolerance)


def same_gradients(ours: Any, want: Any, tolerance: float) -> None:
    assert ours.keys() == want.keys()
    norm_of_all = np.sqrt(sum(np.sum(g**2) for g in want.values()))
    for name, g in want.items():
        error = np.linalg.norm(ours[name] - g)
        size = np.linalg.norm(g)
        # a tensor whose true gradient is zero is measured against all gradients
        assert error <= tolerance * max(size, 1e-3 * norm_of_all), name


@pytest.mark.parametrize("rule", ["linear", "uniform"])
def test_what_is_dropped_at_every_place_is_a_factor_there(rule: str) -> None:
    p, size = (0.1, 0.2, 0.3, 0.4), {"n_layer": 3, "n_head": 2, "n_embd": 8, "context": 6}
    sites = dict(zip(("embedding", "attention", "residual", "hidden"), p, strict=True))
    config = GPT2Config(**size, dropout=sites, stochastic_depth={"rate": 0.5, "rule": rule})
    model, key, n, rows = GPT2(config, N_VOCAB), MaskKey(5, 9, 0), 4, 24
    weights, gradient = (model.layout.allocate(np.float64) for _ in range(2))
    model.initialise(weights, 3)
    weights *= 10

    def dropped(p: float, site: int, *shape: int) -> Any:
        ones = np.ones((int(np.prod(shape[:-1])), shape[-1]))
        dropout(ones, p, key, site, 0)
        return torch.tensor(ones.reshape(shape))

    def masks(site: str, layer: int) -> Any:
        if site == "embedding":
            return dropped(p[0], 0, n, 6, 8)
        if site == "attention":
            return dropped(p[1], 3 * layer + 1, n, 2, 6, 6)
        if site == "hidden":
            return dropped(p[3], 3 * 3 + 1 + layer, n, 6, 32)
        branch = ("attn", "mlp").index(site)
        whole = np.ones((rows, 1))
        rate = 0.5 * ((layer + 1) / 3 if rule == "linear" else 1)
        stochastic_depth(whole, rate, key, 2 * layer + branch, 0, 6)
        assert set(np.round(whole.ravel(), 12)) <= {0, round(1 / (1 - rate), 12)}
        return dropped(p[2], 3 * layer + 2 + branch, n, 6, 8) * torch.tensor(whole).view(n, 6, 1)

    tokens, targets = np.random.default_rng(1).integers(0, N_VOCAB, (2, n, 6)).astype(np.int32)
    acts = model.workspace(n, 6, np.float64, blas_engine(np.float64))
    found = model.loss_and_gradient(
        *(model.params(weights), model.params(gradient), acts, tokens, targets, 1 / rows, key)
    )

    def logits_of(*args: Any) -> Any:
        return torch_models.gpt2_logits(*args, masks)

    want_loss, want = torch_models.loss_and_gradients(
        logits_of, config, model.layout.named(weights), tokens, targets
    )
    assert found.loss == pytest.approx(want_loss, rel=1e-10)
    same_gradients(model.layout.named(gradient), want, 1e-10)


PACKED = ([0, 5, 9, 90], [0, 70])
"""Where the documents of two rows of 131 positions begin."""


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
@pytest.mark.parametrize("kind", ["gpt2", "mlp"])
def test_packed_documents_give_what_each_gives_alone(
    kind: str, dtype: str, tolerance: float
) -> None:
    n_time = 131
    if kind == "gpt2":
        config: Any = GPT2Config(n_layer=2, n_head=2, n_embd=8, context=n_time)
        model: Any = GPT2(config, N_VOCAB)
        logits_of: Any = torch_models.gpt2_logits
    else:
        config = MLPConfig(window=3, n_embd=5, n_hidden=7, context=n_time)
        model, logits_of = MLP(config, N_VOCAB), torch_models.mlp_logits
    weights, gradient = (model.layout.allocate(dtype) for _ in range(2))
    model.initialise(weights, 3)
    weights *= 5
    generator = np.random.default_rng(5)
    tokens, targets = generator.integers(0, N_VOCAB, (2, 2, n_time)).astype(np.int32)
    targets[generator.random(targets.shape) < 0.3] = -1
    starts = np.zeros_like(tokens)
    want_loss, want = 0.0, dict.fromkeys(model.layout.named(gradient), 0.0)
    n_targets = int((targets >= 0).sum())
    tensors = {n: t.astype(np.float64) for n, t in model.layout.named(weights).items()}
    for row, places in enumerate(PACKED):
        for first, stop in zip(places, [*places[1:], n_time], strict=True):
            starts[row, first:stop] = first
            part = np.s_[row : row + 1, first:stop]
            n = int((targets[part] >= 0).sum())
            loss, grads = torch_models.loss_and_gradients(
                logits_of, config, tensors, tokens[part], targets[part]
            )
            want_loss += loss * n / n_targets
            want = {name: want[name] + grads[name] * n / n_targets for name in want}
    acts = model.workspace(2, n_time, dtype, tiled_engine(dtype))
    params = model.params(weights)
    found = model.loss_and_gradient(
        *(params, model.params(gradient), acts, tokens, targets, 1 / n_targets, NO_MASKS),
        starts=starts,
    )
    assert found.loss == pytest.approx(want_loss, rel=tolerance)
    same_gradients(model.layout.named(gradient), want, tolerance)
    total = model.loss(params, acts, tokens, targets, starts=starts)
    assert total / n_targets == pytest.approx(want_loss, rel=tolerance)


@pytest.mark.parametrize("tied", [True, False])
def test_tiles_of_the_head_change_nothing(monkeypatch: pytest.MonkeyPatch, tied: bool) -> None:
    terms = LogitTerms(0.2, 0.01)
    config = GPT2Config(n_layer=1, n_head=2, n_embd=8, context=23, tie_embeddings=tied)
    model = GPT2(config, N_VOCAB)
    weights = model.layout.allocate(np.float64)
    model.initialise(weights, 3)
    generator = np.random.default_rng(5)
    tokens, targets = generator.integers(-1, N_VOCAB, (2, 3, 23)).astype(np.int32)
    found = []
    for n_bytes in (1 << 20, 1):
        monkeypatch.setattr(head, "TILE_BYTES", n_bytes)
        acts = model.workspace(3, 23, np.float64, blas_engine(np.float64))
        gradient = model.layout.allocate(np.float64)
        params = model.params(weights)
        args = (acts, np.maximum(tokens, 0), targets)
        loss = model.loss_and_gradient(
            params, model.params(gradient), *args, 0.02, NO_MASKS, terms=terms
        )
        total = model.loss(params, *args, terms=terms)
        found.append((loss, gradient, total, len(acts.acts.logits)))
    (loss, gradient, total, n_rows), (in_tiles, gradient_in_tiles, total_in_tiles, tile) = found
    assert n_rows == 69
    assert tile < 12
    assert in_tiles == pytest.approx(loss, rel=1e-13)
    assert total_in_tiles == pytest.approx(total, rel=1e-13)
    assert gradient_in_tiles == pytest.approx(gradient, rel=1e-10, abs=1e-14)


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_a_tile_has_even_parts_and_keeps_to_its_bytes(n_rows: int, n_vocab: int) -> None:
    rows = head.tile_rows(n_rows, n_vocab)
    assert 1 <= rows <= n_rows
    whole = 4 * n_rows * n_vocab <= head.TILE_BYTES
    assert not whole or rows == n_rows
    assert 4 * (rows - ROWS) * n_vocab <= head.TILE_BYTES
