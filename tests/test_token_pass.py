"""From log-probabilities to the gradient of every parameter: objectives through a whole model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import numpy as np
import pytest

from bptool.config.rollouts_section import RolloutsConfig
from bptool.config.schema import TrainingConfig
from bptool.data.chat.rendering import Rendering
from bptool.data.record_report import RecordReport
from bptool.data.tokenizers.byte import ByteConfig, ByteTokenizer
from bptool.errors import ConfigError
from bptool.gradient_check.objectives import checked_objective, objective_batch
from bptool.models.gpt2 import GPT2, GPT2Config
from bptool.models.mlp import MLP, MLPConfig
from bptool.objectives.answers import Answers
from bptool.objectives.base import Objective
from bptool.objectives.mixed import Both, Mixed
from bptool.objectives.next_token import NextTokenConfig, Targets
from bptool.objectives.ppo import Rollout
from bptool.ops import head
from bptool.ops.matmul.target import ROWS
from bptool.optim.sgd import SGD
from bptool.registry import objectives
from bptool.training.answers_now import Answered
from bptool.training.lessons.rollouts import Rollouts, Sampled
from bptool.training.machine import choose_engine
from bptool.training.prompt_set import PromptSet
from bptool.training.split import Split
from bptool.training.step import Shards, TrainingStep
from bptool.training.token_shards import Outputs, Rows, TokenShards
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


class Scores:
    """Rewards of a lesson that is not asked for any."""

    def scores(self, prompts: Any, answers: Any) -> Any:
        raise AssertionError("no answer is to be scored")


PROMPTS = PromptSet(
    (), (), (), (), Rendering(None, ByteTokenizer.train([], ByteConfig())), RecordReport(), ""
)


def shards_of(model: Any, n: int, rows: int, split: Split, dtype: Any = np.float64) -> TokenShards:
    team = WorkerTeam(n)
    engine = choose_engine("tiled")
    return TokenShards(model, team, engine, rows, T, dtype, split=split, documents=True)


def gradient(shards: TokenShards, *args: Any) -> tuple[float, Any]:
    losses, _ = shards.gradient_of(*args)
    shards.team.run(shards.reduce)
    return losses.loss, shards.gradients[0].copy()


class Variant(NamedTuple):
    """An objective with settings that take a way of their own through it."""

    objective: str
    settings: dict[str, float] | None = None
    """None: those of ``bptool gradcheck``."""
    change: Callable[[Any, Any], Any] = lambda batch, outputs: batch
    """The batch made another, given the model's outputs."""
    model: dict[str, Any] | None = None
    mix: float = 0.0
    """Weight of a pretraining mix in two more rows."""


def sums_of(batch: Answers, outputs: Outputs) -> Any:
    inside = batch.owner >= 0
    return np.bincount(batch.owner[inside], weights=outputs.logp[inside])


def at_the_reference(batch: Answers, outputs: Outputs) -> Answers:
    return batch._replace(reference=sums_of(batch, outputs))


def estimated(shift: float) -> Callable[[Answers, Outputs], Answers]:
    """KTO's reference point from answers with label 0, whose log-ratios are about ``shift``."""

    def change(batch: Answers, outputs: Outputs) -> Answers:
        shifted = np.where(batch.labels == 0, sums_of(batch, outputs) - shift, batch.reference)
        return batch._replace(reference=shifted, reference_point=None)

    return change


def first_update(batch: Any, outputs: Outputs) -> Any:
    """Every ratio is 1 and every value that of the rollout."""
    batch = batch._replace(old_logp=outputs.logp.copy())
    return batch._replace(old_values=outputs.scores.copy()) if hasattr(batch, "returns") else batch


UNTIED = {"tie_embeddings": False}
VARIANTS: dict[str, Variant] = {
    **{name: Variant(name) for name in objectives.names()},
    "next-token, untied": Variant("next-token", model=UNTIED),
    "reward, untied": Variant("reward", model=UNTIED),
    "dpo without smoothing": Variant("dpo", {"beta": 0.1}),
    "dpo, strong smoothing": Variant("dpo", {"beta": 2.0, "label_smoothing": 0.45}),
    "dpo at the reference": Variant("dpo", {"beta": 0.3}, at_the_reference),
    "ipo at the reference": Variant("ipo", {"beta": 0.05}, at_the_reference),
    "kto, estimated point": Variant("kto", {"beta": 0.5}, estimated(1.5)),
    "kto, estimated point below 0": Variant("kto", {"beta": 0.5}, estimated(-1.5)),
    "kto, desirable only": Variant("kto", {"undesirable_weight": 0.0}),
    "ppo without value clipping": Variant("ppo", {"value_clip": 1e9, "value_weight": 0.5}),
    "ppo, tight clips": Variant("ppo", {"clip": 0.06, "value_clip": 0.06, "value_weight": 2.0}),
    "ppo, policy alone": Variant("ppo", {"value_weight": 0.0}),
    "ppo, first update": Variant("ppo", {"value_weight": 0.5}, first_update),
    "ppo with a pretraining mix": Variant("ppo", {"value_weight": 0.5}, mix=0.7),
    "grpo without KL": Variant("grpo", {"kl_weight": 0.0}),
    "grpo, tight clip": Variant("grpo", {"clip": 0.06, "kl_weight": 0.04}),
    "grpo, first update": Variant("grpo", {"kl_weight": 0.3}, first_update),
}


def objective_of(variant: Variant) -> Objective:
    if variant.settings is None:
        return checked_objective(variant.objective)
    objective = objectives.get(variant.objective)
    found: Objective = objective(objective.Config(**variant.settings))
    return found


def with_mix(rows: Rows, owner: Any) -> tuple[Rows, Any, Targets]:
    """Rows with two of a pretraining mix behind, one of them masked in part."""
    tokens = np.random.default_rng(11).integers(0, N_VOCAB, (2, T + 1)).astype(np.int32)
    targets = tokens[:, 1:].copy()
    targets[1, 9:] = -1
    more = tokens[:, :-1], targets, np.zeros_like(targets)
    both = Rows(*(np.concatenate(pair) for pair in zip(rows, more, strict=True)))
    nothing = np.full_like(owner, -1)
    mix = np.concatenate([nothing, targets.reshape(-1)])
    owner = np.concatenate([owner, np.full(targets.size, -1, np.int32)])
    return both, owner, Targets(mix, 1.0 / (mix >= 0).sum())


def compare_with_autograd(
    model: Any, weights: Any, rows: Rows, ours: tuple[float, Any], loss_of: Callable[..., Any]
) -> None:
    """Loss to 1e-8 and each tensor's gradient to 1e-6; ``loss_of`` takes PyTorch's outputs."""
    import torch
    import torch_models

    leaves = {
        key: torch.tensor(t, requires_grad=True) for key, t in model.layout.named(weights).items()
    }
    want = loss_of(*torch_models.gpt2_outputs(model.config, leaves, *map(torch.tensor, rows)))
    grads = torch.autograd.grad(want, list(leaves.values()), allow_unused=True)
    loss, gradient = ours
    assert loss == pytest.approx(float(want.detach()), rel=1e-8, abs=1e-12)
    total, named = np.linalg.norm(gradient), model.layout.named(gradient)
    assert total > 0
    for (key, leaf), g in zip(leaves.items(), grads, strict=True):
        truth = np.zeros(leaf.shape) if g is None else g.numpy()
        size = max(float(np.linalg.norm(truth)), 1e-3 * total)
        assert np.linalg.norm(named[key] - truth) <= 1e-6 * size, key


@pytest.mark.parametrize("name", VARIANTS)
def test_objectives_through_the_model_equal_autograd(name: str) -> None:
    torch_objectives = pytest.importorskip(
        "torch_objectives", reason="PyTorch is not installed; see CONTRIBUTING.md"
    )
    variant = VARIANTS[name]
    objective = objective_of(variant)
    model, weights = model_of(**(variant.model or {}))
    params, (rows, owner) = model.params(weights), rows_and_owner()
    mix = None
    if variant.mix:
        rows, owner, mix = with_mix(rows, owner)
    shards = shards_of(model, 1, len(rows.tokens), "batch")
    with shards.team:
        outputs = shards.outputs(params, rows)
        batch = objective_batch(
            variant.objective, np.random.default_rng(8), owner, outputs.logp, outputs.scores
        )
        batch = variant.change(batch, outputs)
        trained, both = objective, batch
        if mix is not None:
            trained, both = Mixed(objective, variant.mix), Both(batch, mix)
        ours = gradient(shards, trained, both, params, rows, 0, 1)

    def loss_of(logp: Any, scores: Any) -> Any:
        want = torch_objectives.loss_of(variant.objective, objective.config, batch, logp, scores)
        if mix is not None:
            named = NextTokenConfig()
            return want + variant.mix * torch_objectives.loss_of(
                "next-token", named, mix, logp, scores
            )
        return want

    compare_with_autograd(model, weights, rows, ours, loss_of)


@pytest.mark.parametrize(("whiten", "normalise"), [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_ppo_from_rewards_to_gradients_equals_autograd(
    estimator: str, whiten: bool, normalise: bool
) -> None:
    """Token rewards, advantages and returns worked out anew, then the loss through the model."""
    torch_objectives = pytest.importorskip(
        "torch_objectives", reason="PyTorch is not installed; see CONTRIBUTING.md"
    )
    import torch

    settings = RolloutsConfig(
        **{"reward": "rules.py", "kl_weight": 0.4, "kl_estimator": estimator, "whiten": whiten},
        **{"gamma": 0.95, "gae_lambda": 0.9, "end_penalty": 0.7, "normalise": normalise},
    )
    objective = objective_of(VARIANTS["ppo, tight clips"])
    model, weights = model_of()
    params, (rows, owner) = model.params(weights), rows_and_owner()
    rng = np.random.default_rng(21)
    rewards, ended = rng.normal(size=8), rng.random(8) < 0.5
    spans = [np.flatnonzero(owner == a) for a in range(8)]
    assert 0 < ended.sum() < 8
    shards = shards_of(model, 1, 5, "batch")
    with shards.team:
        now = shards.outputs(params, rows)
        old = Outputs(*(x + 0.2 * rng.normal(size=x.size) for x in now))
        reference = now.logp + 0.3 * rng.normal(size=owner.size)
        lesson = Rollouts(
            *(TrainingStep(shards, SGD(SGD.Config())), objective, PROMPTS, settings),
            *(TrainingConfig(steps=1, batch_size=1), weights, Scores()),
        )
        sampled = Sampled(
            *(Answered([], ended), rewards, None, rows, np.concatenate(spans)),  # type: ignore[arg-type]
            np.concatenate([[0], np.cumsum([len(places) for places in spans])]),
        )
        batch = lesson._rollout(sampled, *old, reference)
        ours = gradient(shards, objective, batch, params, rows, 0, 1)

    tensors = map(torch.tensor, (*old, reference))
    gains, returns = torch_objectives.advantages_and_returns(
        settings, rewards, ended, spans, *tensors
    )
    inside = np.where(owner >= 0, 1.0 / (owner >= 0).sum(), 0.0)
    anew = Rollout(inside, old.logp, gains.numpy(), old.scores, returns.numpy())
    assert np.abs(anew.advantages).max() > 0.5

    def loss_of(logp: Any, scores: Any) -> Any:
        return torch_objectives.loss_of("ppo", objective.config, anew, logp, scores)

    compare_with_autograd(model, weights, rows, ours, loss_of)


@pytest.mark.parametrize("changes", [{}, UNTIED, {"bias": False}])
def test_supervised_fine_tuning_equals_autograd(changes: dict[str, Any]) -> None:
    """The way that SFT takes: masked targets of several documents in a row, in micro-batches."""
    pytest.importorskip("torch", reason="PyTorch is not installed; see CONTRIBUTING.md")
    model, weights = model_of(**changes)
    params, (rows, _) = model.params(weights), rows_and_owner()
    n_targets = int((rows.targets >= 0).sum())
    for micro in (5, 2):
        shards = shards_of(model, 1, micro, "batch")
        with shards.team:
            losses = shards.loss_and_gradient(
                *(params, rows.tokens, rows.targets, n_targets, 0, 1, rows.starts)
            )
            shards.team.run(shards.reduce)
            ours = losses.loss, shards.gradients[0].copy()
        compare_with_autograd(
            model, weights, rows, ours, lambda logp, scores: -logp.sum() / n_targets
        )


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-6)])
def test_a_model_that_is_its_own_reference_has_a_dpo_loss_of_log_2(
    dtype: Any, tolerance: float
) -> None:
    model, weights = model_of()
    params, (rows, owner) = model.params(weights.astype(dtype)), rows_and_owner()
    shards, dpo = shards_of(model, 2, 4, "batch", dtype), checked_objective("dpo")
    with shards.team:
        reference = sums_of(Answers(owner, np.zeros(8)), shards.outputs(params, rows))
        loss, found = gradient(shards, dpo, Answers(owner, reference), params, rows, 0, 1)
    assert abs(loss - math.log(2)) <= tolerance
    assert np.linalg.norm(found) > 0


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
