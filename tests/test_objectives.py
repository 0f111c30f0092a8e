"""Objectives of fine-tuning: autograd, values that are known, and what must not change them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptool.gradient_check.objectives import checked_objective, objective_batch
from bptool.objectives.answers import Answers
from bptool.objectives.dpo import DPO, DPOConfig
from bptool.objectives.gae import gae
from bptool.objectives.grpo import GRPO, GroupRollout, GRPOConfig, group_advantages
from bptool.objectives.ipo import IPO, IPOConfig
from bptool.objectives.kto import KTO, KTOConfig
from bptool.objectives.ppo import PPO, PPOConfig, Rollout, explained_variance
from bptool.objectives.reward import Reward, RewardConfig, ScoredPairs
from bptool.registry import objectives

OWNER = np.array([-1, 0, 0, 0, 1, 1, -1, 2, 2, 3, 3, 3, -1, 4, 5, 5, 6, 7], np.int32)
NONE = np.zeros(0)
NAMES = objectives.names()


def gradients(objective: Any, batch: Any, logp: Any, scores: Any) -> tuple[Any, Any]:
    dlogp, dscores = np.full_like(logp, np.nan), np.full_like(scores, np.nan)
    objective.gradient(batch, logp, scores, dlogp, dscores)
    return dlogp, dscores


def drawn(name: str, seed: int, dtype: Any = np.float64) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    logp, scores = -rng.uniform(0.1, 4, OWNER.size), rng.normal(size=OWNER.size)
    batch = objective_batch(name, rng, OWNER, logp, scores)
    return batch, logp.astype(dtype), scores.astype(dtype)


def test_the_objectives_of_the_papers_are_registered() -> None:
    assert NAMES == ["dpo", "grpo", "ipo", "kto", "next-token", "ppo", "reward"]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradient_equal_autograd(name: str, seed: int) -> None:
    torch_objectives = pytest.importorskip("torch_objectives", reason="PyTorch is not installed")
    objective = checked_objective(name)
    batch, logp, scores = drawn(name, seed)
    want_loss, want_dlogp, want_dscores = torch_objectives.loss_and_gradient(
        name, objective.config, batch, logp, scores
    )
    dlogp, dscores = gradients(objective, batch, logp, scores)
    assert objective.loss(batch, logp, scores) == pytest.approx(want_loss, rel=1e-8, abs=1e-12)
    for found, want, on in (
        (dlogp, want_dlogp, objective.of_logp),
        (dscores, want_dscores, objective.of_scores),
    ):
        if on:
            assert np.linalg.norm(found - want) <= 1e-6 * np.linalg.norm(want)
            assert np.linalg.norm(want) > 0
        else:
            assert np.isnan(found).all()


@pytest.mark.parametrize("name", NAMES)
def test_float32_differs_from_float64_by_rounding(name: str) -> None:
    objective = checked_objective(name)
    batch, logp, scores = drawn(name, 9)
    single = objective.gradient, logp.astype(np.float32), scores.astype(np.float32)
    want = gradients(objective, batch, logp, scores)
    found = gradients(objective, batch, *single[1:])
    assert objective.loss(batch, *single[1:]) == pytest.approx(
        objective.loss(batch, logp, scores), rel=1e-5
    )
    for a, b in zip(found, want, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-6)])
def test_a_margin_of_zero_costs_log_2(dtype: Any, tolerance: float, smoothing: float) -> None:
    logp = -np.random.default_rng(2).uniform(0.1, 4, OWNER.size).astype(dtype)
    inside = OWNER >= 0
    sums = np.bincount(OWNER[inside], weights=logp[inside].astype(np.float64))
    dpo = DPO(DPOConfig(label_smoothing=smoothing))
    assert abs(dpo.loss(Answers(OWNER, sums), logp, NONE) - math.log(2)) <= tolerance
    reward = Reward(RewardConfig())
    places = np.array([3, 5, 8, 11])
    same = np.full(OWNER.size, 0.7, dtype)
    assert abs(reward.loss(ScoredPairs(places), NONE, same) - math.log(2)) <= tolerance


def test_dpo_of_one_pair_worked_out_by_hand() -> None:
    # chosen: -1 -1 against -3 by the reference, rejected: -2 against -1.5; h = 0.1 (1 + 0.5)
    batch = Answers(np.array([0, 0, 1], np.int32), np.array([-3.0, -1.5]))
    logp = np.array([-1.0, -1.0, -2.0])
    dpo = DPO(DPOConfig())
    assert dpo.loss(batch, logp, NONE) == pytest.approx(math.log(1 + math.exp(-0.15)), rel=1e-14)
    d = 0.1 / (1 + math.exp(0.15))
    assert gradients(dpo, batch, logp, NONE)[0] == pytest.approx([-d, -d, d], rel=1e-14)
    assert dpo.statistics(batch, logp, NONE) == pytest.approx(
        {
            "accuracy": 1.0,
            "reward margin": 0.15,
            "chosen reward": 0.1,
            "rejected reward": -0.05,
        }
    )


def test_ipo_has_no_gradient_at_its_aim() -> None:
    batch = Answers(np.array([0, 1], np.int32), np.array([-4.0, -1.0]))
    logp = np.array([-1.0, -3.0])  # a margin of 5 = 1 / (2 * 0.1)
    ipo = IPO(IPOConfig(beta=0.1))
    assert ipo.loss(batch, logp, NONE) == pytest.approx(0, abs=1e-24)
    assert np.abs(gradients(ipo, batch, logp, NONE)[0]).max() <= 1e-12


def test_kto_at_its_reference_point_has_half_the_value() -> None:
    owner = np.array([0, 1, 2, 3], np.int32)
    logp = np.array([-1.0, -1.0, -1.0, -2.0])
    batch = Answers(owner, logp - [0.5, 0.5, 0.3, 0.7], np.array([1, -1, 0, 0], np.int8))
    kto = KTO(KTOConfig(desirable_weight=1.0, undesirable_weight=3.0))
    assert kto.reference_point(batch, logp) == pytest.approx(0.5)
    assert kto.loss(batch, logp, NONE) == pytest.approx((0.5 + 1.5) / 2)
    assert gradients(kto, batch, logp, NONE)[0] == pytest.approx([-0.0125, 0.0375, 0, 0])
    far = batch._replace(reference=logp + 5.0)
    assert kto.reference_point(far, logp) == 0  # a KL divergence is not negative


def test_ppo_clips_only_what_would_gain() -> None:
    weights = np.full(4, 0.25)
    ratios, advantages = np.array([1.5, 0.5, 1.5, 0.5]), np.array([1.0, -1.0, -1.0, 1.0])
    zero = np.zeros(4)
    batch = Rollout(weights, zero, advantages, zero, zero)
    ppo, logp = PPO(PPOConfig(clip=0.2)), np.log(ratios)
    assert ppo.policy_loss(batch, logp) == pytest.approx(-(1.2 - 0.8 - 1.5 + 0.5) / 4)
    assert gradients(ppo, batch, logp, zero)[0] == pytest.approx([0, 0, 0.375, -0.125])
    assert ppo.statistics(batch, logp, zero)["clip fraction"] == pytest.approx(1.0)


def test_the_clipped_value_loss_takes_the_worse_of_the_two() -> None:
    weights, zero = np.full(3, 1 / 3), np.zeros(3)
    returns = np.array([1.0, 1.0, -1.0])
    values = np.array([0.1, 0.9, 0.9])  # within the clip; gained more than it; got worse
    batch = Rollout(weights, zero, zero, zero, returns)
    ppo = PPO(PPOConfig(value_clip=0.2, value_weight=1.0))
    assert ppo.value_loss(batch, values) == pytest.approx(0.5 * (0.81 + 0.64 + 3.61) / 3)
    assert gradients(ppo, batch, zero, values)[1] == pytest.approx([-0.3, 0, 1.9 / 3])
    assert explained_variance(batch, returns) == pytest.approx(1.0)
    assert explained_variance(batch, zero) == pytest.approx(0.0)


def test_gae_equals_its_definition() -> None:
    rng = np.random.default_rng(4)
    offsets = np.array([0, 5, 6, 13])
    rewards, values = rng.normal(size=13), rng.normal(size=13)
    advantages, returns = np.full(13, np.nan), np.full(13, np.nan)
    gae(advantages, returns, rewards, values, offsets, 0.9, 0.8)
    for start, stop in itertools.pairwise(offsets):
        after = np.append(values[start + 1 : stop], 0.0)
        delta = rewards[start:stop] + 0.9 * after - values[start:stop]
        want = [
            sum((0.9 * 0.8) ** k * delta[t + k] for k in range(len(delta) - t))
            for t in range(len(delta))
        ]
        assert advantages[start:stop] == pytest.approx(want)
    assert returns == pytest.approx(advantages + values)


def test_group_advantages_have_mean_0_and_std_1_but_where_there_is_no_variance() -> None:
    rewards = np.array([[1.0, 2.0, 6.0], [0.1, 0.1, 0.1], [0.0, 0.0, 1.0]])
    found, flat = group_advantages(rewards)
    assert flat == pytest.approx(1 / 3)
    assert found.mean(axis=1) == pytest.approx(np.zeros(3), abs=1e-15)
    assert found.std(axis=1) == pytest.approx([1, 0, 1])
    assert not found[1].any()


def test_the_kl_penalty_of_grpo_is_zero_at_the_reference_and_positive_elsewhere() -> None:
    grpo = GRPO(GRPOConfig(kl_weight=1.0))
    logp, weights, zero = np.array([-1.0, -2.0]), np.full(2, 0.5), np.zeros(2)
    batch = GroupRollout(weights, logp, zero, logp)
    assert grpo.loss(batch, logp, NONE) == 0
    off = batch._replace(reference=logp + np.array([0.3, -0.3]))
    assert grpo.loss(off, logp, NONE) > 0


SHIFTS = st.floats(-50, 50)
SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, SHIFTS)
def test_what_both_answers_share_changes_no_preference_loss(seed: int, shift: float) -> None:
    """A constant added to the log-ratios of both answers of a pair, or to all scores."""
    for name in ("dpo", "ipo"):
        objective = checked_objective(name)
        batch, logp, _ = drawn(name, seed)
        shifted = batch._replace(reference=batch.reference + shift)
        assert objective.loss(shifted, logp, NONE) == pytest.approx(
            objective.loss(batch, logp, NONE), rel=1e-9, abs=1e-9
        )
    reward = checked_objective("reward")
    batch, _, scores = drawn("reward", seed)
    assert reward.loss(batch, NONE, scores + shift) == pytest.approx(
        reward.loss(batch, NONE, scores), rel=1e-9, abs=1e-9
    )
    assert gradients(reward, batch, NONE, scores)[1].sum() == pytest.approx(0, abs=1e-12)


@given(SEEDS, st.floats(0.1, 20), SHIFTS)
def test_group_advantages_know_no_scale_and_no_zero(seed: int, scale: float, shift: float) -> None:
    rewards = np.random.default_rng(seed).integers(0, 4, (5, 6)).astype(np.float64)
    found, flat = group_advantages(rewards)
    again, flat_again = group_advantages(scale * rewards + shift)
    assert flat == flat_again
    assert again == pytest.approx(found, abs=1e-9)


@given(st.sampled_from(NAMES), SEEDS, st.sampled_from([1e2, 1e4, 1e6]), st.booleans())
def test_extreme_margins_overflow_nowhere(name: str, seed: int, size: float, single: bool) -> None:
    objective = checked_objective(name)
    dtype = np.float32 if single else np.float64
    batch, logp, scores = drawn(name, seed, dtype)
    rng = np.random.default_rng(seed)
    logp = (size * rng.normal(size=logp.shape)).astype(dtype)
    scores = (size * rng.normal(size=scores.shape)).astype(dtype)
    with np.errstate(all="raise"):
        assert math.isfinite(objective.loss(batch, logp, scores))
    for on, found in zip(
        (objective.of_logp, objective.of_scores),
        gradients(objective, batch, logp, scores),
        strict=True,
    ):
        assert not on or np.isfinite(found).all()
