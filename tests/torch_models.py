"""The models of bptool written again in PyTorch, as independent references for the tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


def gpt2_logits(
    config: Any, tensors: dict[str, torch.Tensor], tokens: torch.Tensor
) -> torch.Tensor:
    """Logits (B, T, V) of GPT-2 with the tensors named as in a checkpoint; no dropout."""
    n_time = tokens.shape[1]
    width, n_head = config.n_embd, config.n_head
    get = tensors.get

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (width,), get(f"{name}.weight"), get(f"{name}.bias"), 1e-5)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, tensors[f"{name}.weight"], get(f"{name}.bias"))

    x = tensors["wte.weight"][tokens] + tensors["wpe.weight"][:n_time]
    for layer in range(config.n_layer):
        h = f"h.{layer}"
        q, k, v = linear(norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn").split(width, dim=2)
        heads = [t.view(*t.shape[:2], n_head, width // n_head).transpose(1, 2) for t in (q, k, v)]
        y = F.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + linear(y.transpose(1, 2).reshape(x.shape), f"{h}.attn.c_proj")
        up = linear(norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc")
        x = x + linear(ACTIVATIONS[config.activation](up), f"{h}.mlp.c_proj")
    head = tensors.get("lm_head.weight", tensors["wte.weight"])
    return F.linear(norm(x, "ln_f"), head)


def mlp_logits(config: Any, tensors: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    """Logits (B, T, V) of the feed-forward model; no dropout."""
    embedding = tensors["embedding.weight"]
    blank = torch.full((len(tokens), config.window - 1), len(embedding) - 1)
    windows = torch.cat([blank, tokens], 1).unfold(1, config.window, 1)
    x = embedding[windows].flatten(2)
    act = ACTIVATIONS[config.activation]
    x = act(F.linear(x, tensors["input.weight"], tensors["input.bias"]))
    for layer in range(config.n_layer - 1):
        name = f"hidden.{layer}"
        x = act(F.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"]))
    return F.linear(x, tensors["output.weight"], tensors["output.bias"])


def loss_and_gradients(
    logits_of: Any, config: Any, tensors: dict[str, np.ndarray], tokens: Any, targets: Any
) -> tuple[float, dict[str, np.ndarray]]:
    """Mean cross-entropy over unmasked targets and its gradient by every tensor."""
    leaves = {name: torch.tensor(t, requires_grad=True) for name, t in tensors.items()}
    logits = logits_of(config, leaves, torch.tensor(tokens, dtype=torch.long))
    flat = torch.tensor(targets, dtype=torch.long).flatten()
    loss = F.cross_entropy(logits.flatten(0, 1), flat, ignore_index=-1)
    loss.backward()
    return float(loss.detach()), {name: t.grad.numpy() for name, t in leaves.items()}
