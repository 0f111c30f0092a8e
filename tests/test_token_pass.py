"""From log-probabilities to the gradient of every parameter: objectives through a whole model."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest

from bptool.errors import ConfigError
from bptool.gradcheck.objectives import checked_objective, objective_batch
from bptool.models.gpt2 import GPT2, GPT2Config
from bptool.models.mlp import MLP, MLPConfig
from bptool.ops import head
from bptool.ops.matmul.target import ROWS
from bptool.registry import objectives
from bptool.training.machine import choose_engine
from bptool.training.split import Split
from bptool.training.step import Shards
from bptool.training.token_shards import Rows, TokenShards
from bptool.training.workers import WorkerTeam

N_VOCAB, T = 37, 16
SIZE: dict[str, Any] = {"n_layer": 2, "n_head": 2, "n_embd": 32, "context": T}
ANSWERS = [[(3, 7), (10, 15)], [(2, 9)], [(5, 6), (9, 15)], [(0, 4), (6, 12)], [(4, 8)]]
"""Where the answers of each of five rows stand; every one begins a document one token before."""


def rows_and_owner() -> tuple[Rows, Any]:
    rng = np.random.default_rng(3)
    tokens = rng.integers(0, N_VOCAB, (len(ANSWERS), T)).astype(np.int32)
    targets = np.full_like(tokens, -1)
    starts, owner = np.zeros_like(tokens), np.full_like(tokens, -1)
    number = 0
    for row, spans in enumerate(ANSWERS):
        for first, stop in spans:
            targets[row, first:stop] = rng.integers(0, N_VOCAB, stop - first)
            owner[row, first:stop] = number
            starts[row, max(first - 1, 0) :] = max(first - 1, 0)
            number += 1
    assert number == 8
    return Rows(tokens, targets, starts), owner.reshape(-1)


def model_of(**changes: Any) -> tuple[GPT2, Any]:
    model = GPT2(GPT2Config(**{**SIZE, "score_head": True, **changes}), N_VOCAB)
    weights = model.layout.allocate(np.float64)
    model.initialise(weights, 3)
    weights += 0.1 * np.random.default_rng(5).standard_normal(weights.size)
    return model, weights


def batch_for(name: str, shards: TokenShards, params: Any) -> tuple[Rows, Any]:
    rows, owner = rows_and_owner()
    outputs = shards.outputs(params, rows)
    return rows, objective_batch(name, np.random.default_rng(8), owner, *outputs)


def shards_of(model: Any, n: int, rows: int, split: Split, dtype: Any = np.float64) -> TokenShards:
    team = WorkerTeam(n)
    engine = choose_engine("tiled")
    return TokenShards(model, team, engine, rows, T, dtype, split=split, documents=True)


def gradient(shards: TokenShards, *args: Any) -> tuple[float, Any]:
    losses, _ = shards.gradient_of(*args)
    shards.team.run(shards.reduce)
    return losses.loss, shards.gradients[0].copy()


@pytest.mark.parametrize("name", objectives.names())
def test_objectives_through_the_model_equal_autograd(name: str) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed; see CONTRIBUTING.md")
    import torch
    import torch_models
    import torch_objectives

    model, weights = model_of()
    shards, params = shards_of(model, 1, 5, "batch"), model.params(weights)
    with shards.team:
        rows, batch = batch_for(name, shards, params)
        objective = checked_objective(name)
        loss, found = gradient(shards, objective, batch, params, rows, 0, 1)

    leaves = {
        key: torch.tensor(t, requires_grad=True) for key, t in model.layout.named(weights).items()
    }
    logp, scores = torch_models.gpt2_outputs(model.config, leaves, *map(torch.tensor, rows))
    want = torch_objectives.loss_of(name, objective.config, batch, logp, scores)
    grads = torch.autograd.grad(want, list(leaves.values()), allow_unused=True)
    assert loss == pytest.approx(float(want.detach()), rel=1e-8, abs=1e-12)
    ours = model.layout.named(found)
    total = np.linalg.norm(found)
    assert total > 0
    for (key, leaf), g in zip(leaves.items(), grads, strict=True):
        truth = np.zeros(leaf.shape) if g is None else g.numpy()
        size = max(float(np.linalg.norm(truth)), 1e-3 * total)
        assert np.linalg.norm(ours[key] - truth) <= 1e-6 * size, key


@pytest.mark.parametrize("name", ["dpo", "reward", "ppo"])
def test_workers_splits_and_micro_batches_change_nothing(name: str) -> None:
    dropout = {"dropout": 0.1, "stochastic_depth": 0.2}
    model, weights = model_of(**dropout)
    params, objective = model.params(weights), checked_objective(name)
    found = []
    for n, rows_at_once, split in [(1, 5, "batch"), (2, 4, "batch"), (2, 2, "inside")]:
        assert split in get_args(Split)
        shards = shards_of(model, n, rows_at_once, split)  # type: ignore[arg-type]
        with shards.team:
            rows, batch = batch_for(name, shards, params)
            found.append(gradient(shards, objective, batch, params, rows, 7, 3))
            again = gradient(shards, objective, batch, params, rows, 7, 3)
            assert again[0] == found[-1][0]
            assert again[1].tobytes() == found[-1][1].tobytes()
    for loss, g in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-12)
        assert np.linalg.norm(g - found[0][1]) <= 1e-12 * np.linalg.norm(found[0][1])


@pytest.mark.parametrize("tied", [True, False])
def test_tiles_of_the_head_change_nothing(monkeypatch: pytest.MonkeyPatch, tied: bool) -> None:
    model, weights = model_of(tie_embeddings=tied)
    params, objective = model.params(weights), checked_objective("ppo")
    found = []
    for n_bytes in (1 << 20, 1):
        monkeypatch.setattr(head, "TILE_BYTES", n_bytes)
        shards = shards_of(model, 1, 5, "batch")
        with shards.team:
            rows, batch = batch_for("ppo", shards, params)
            found.append(gradient(shards, objective, batch, params, rows, 7, 3))
    assert 2 * ROWS < 5 * T
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-13)
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-9, abs=1e-13)


def test_log_probabilities_are_those_of_the_loss() -> None:
    model, weights = model_of()
    params, (rows, _) = model.params(weights), rows_and_owner()
    shards = shards_of(model, 2, 4, "batch")
    with shards.team:
        outputs = shards.outputs(params, rows)
        assert -outputs.logp.sum() == pytest.approx(shards.loss(params, *rows), rel=1e-12)
    assert not outputs.logp[rows.targets.reshape(-1) < 0].any()
    assert outputs.scores.std() > 0


def test_a_new_scalar_head_gives_0_and_pretraining_leaves_it_alone() -> None:
    model = GPT2(GPT2Config(**SIZE, score_head=True), N_VOCAB)
    plain = GPT2(GPT2Config(**SIZE), N_VOCAB)
    assert model.n_parameters == plain.n_parameters + SIZE["n_embd"] + 1
    weights = model.layout.allocate(np.float64)
    model.initialise(weights, 3)
    params, (rows, _) = model.params(weights), rows_and_owner()
    shards = shards_of(model, 1, 5, "batch")
    with shards.team:
        assert not shards.outputs(params, rows).scores.any()
        Shards.loss_and_gradient(shards, params, *rows[:2], 30, 0, 1, rows.starts)
        named = model.layout.named(shards.gradients[0])
    assert not named["score.weight"].any()
    assert not named["score.bias"].any()


def test_a_model_without_log_probabilities_is_refused_in_one_line() -> None:
    model = MLP(MLPConfig(context=T), N_VOCAB)
    weights, (rows, _) = model.layout.allocate(np.float64), rows_and_owner()
    shards = shards_of(model, 1, 5, "batch")
    with shards.team, pytest.raises(ConfigError, match="model 'mlp' gives its loss only"):
        shards.outputs(model.params(weights), rows)
