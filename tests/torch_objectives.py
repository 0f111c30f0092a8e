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
        values = config.desirable_weight * (1 - torch.sigmoid(config.beta * (good - z0)))
        others = config.undesirable_weight * (1 - torch.sigmoid(config.beta * (z0 - bad)))
        return torch.cat([values, others]).mean()
    margins = ratios[0::2] - ratios[1::2]
    if name == "ipo":
        return ((margins - 1 / (2 * config.beta)) ** 2).mean()
    smoothing, h = config.label_smoothing, config.beta * margins
    return -((1 - smoothing) * F.logsigmoid(h) + smoothing * F.logsigmoid(-h)).mean()


def loss_and_gradient(
    name: str, config: Any, batch: Any, logp: Any, scores: Any
) -> tuple[float, Any, Any]:
    """The loss and its gradients; zeros for what it does not depend on."""
    leaves = [torch.tensor(a, requires_grad=True) for a in (logp, scores)]
    loss = loss_of(name, config, batch, *leaves)
    found = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return float(loss.detach()), *(g.numpy() for g in found)
