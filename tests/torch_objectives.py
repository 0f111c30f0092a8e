"""The objectives of fine-tuning written again in PyTorch, as references for the tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F


def loss_of(name: str, config: Any, batch: Any, logp: Any, scores: Any) -> torch.Tensor:
    """The loss of flat ``logp`` and ``scores``, (N,) tensors."""

    def constant(array: Any) -> torch.Tensor:
        return torch.tensor(np.asarray(array))

    if name == "reward":
        chosen, rejected = scores[constant(batch.places)].view(-1, 2).unbind(1)
        return F.softplus(rejected - chosen).mean()
    if name in ("ppo", "grpo"):
        ratio = (logp - constant(batch.old_logp)).exp()
        gain, weights = constant(batch.advantages), constant(batch.weights)
        kept = ratio.clamp(1 - config.clip, 1 + config.clip)
        policy = -(weights * torch.minimum(ratio * gain, kept * gain)).sum()
        if name == "grpo":
            off = constant(batch.reference) - logp
            return policy + config.kl_weight * (weights * (off.exp() - off - 1)).sum()
        old, returns = constant(batch.old_values), constant(batch.returns)
        near = old + (scores - old).clamp(-config.value_clip, config.value_clip)
        worse = torch.maximum((scores - returns) ** 2, (near - returns) ** 2)
        return policy + 0.5 * config.value_weight * (weights * worse).sum()
    if name == "next-token":
        return -logp[constant(batch.targets) >= 0].sum() * batch.inverse_n_targets
    owner = constant(batch.owner).long()
    sums = torch.stack([logp[owner == a].sum() for a in range(int(owner.max()) + 1)])
    ratios = sums - constant(batch.reference)
    if name == "kto":
        labels = constant(batch.labels)
        good, bad = ratios[labels == 1], ratios[labels == -1]
        z0 = batch.reference_point
        if z0 is None:  # no gradient goes through it
            z0 = ratios[labels == 0].mean().clamp(min=0).detach()
        values = config.desirable_weight * (1 - torch.sigmoid(config.beta * (good - z0)))
        others = config.undesirable_weight * (1 - torch.sigmoid(config.beta * (z0 - bad)))
        return torch.cat([values, others]).mean()
    margins = ratios[0::2] - ratios[1::2]
    if name == "ipo":
        return ((margins - 1 / (2 * config.beta)) ** 2).mean()
    smoothing, h = config.label_smoothing, config.beta * margins
    return -((1 - smoothing) * F.logsigmoid(h) + smoothing * F.logsigmoid(-h)).mean()


def advantages_and_returns(
    settings: Any, rewards: Any, ended: Any, spans: Any, logp: Any, scores: Any, reference: Any
) -> tuple[Any, Any]:
    """PPO's advantages and returns of every position, 0 where no answer is: token rewards by the
    named estimator of the KL divergence beside rewards at mean 0 and deviation 1 where they are
    normalised, then GAE as the sum that defines it."""
    if settings.normalise:
        rewards = (torch.tensor(rewards) - rewards.mean()) / torch.tensor(rewards).std(correction=0)
    found, returns = torch.zeros_like(logp), torch.zeros_like(logp)
    for a, places in enumerate(spans):
        off = logp[places] - reference[places]
        estimate = {"k1": off, "k3": torch.exp(-off) - 1 + off}[settings.kl_estimator]
        reward = -settings.kl_weight * estimate
        reward[-1] += rewards[a] - (0.0 if ended[a] else settings.end_penalty)
        values = torch.cat([scores[places], torch.zeros(1, dtype=scores.dtype)])
        delta = reward + settings.gamma * values[1:] - values[:-1]
        n = len(places)
        decay = settings.gamma * settings.gae_lambda
        powers = torch.arange(n)[None] - torch.arange(n)[:, None]
        weights = torch.where(powers >= 0, decay ** powers.clamp(min=0).double(), 0.0)
        found[places] = weights @ delta
        returns[places] = found[places] + scores[places]
    if settings.whiten:
        inside = torch.cat([torch.as_tensor(places) for places in spans])
        spread, centre = found[inside].std(correction=0), found[inside].mean()
        found[inside] = (found[inside] - centre) / (spread + 1e-8)
    return found, returns


def loss_and_gradient(
    name: str, config: Any, batch: Any, logp: Any, scores: Any
) -> tuple[float, Any, Any]:
    """The loss and its gradients; zeros for what it does not depend on."""
    leaves = [torch.tensor(a, requires_grad=True) for a in (logp, scores)]
    loss = loss_of(name, config, batch, *leaves)
    found = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return float(loss.detach()), *(g.numpy() for g in found)
