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
    "silu": F.silu,
}


def gpt2_hidden(
    config: Any, tensors: dict[str, torch.Tensor], tokens: torch.Tensor, masks: Any = None
) -> torch.Tensor:
    """What goes into GPT-2's head, (B, T, C), with the tensors named as in a checkpoint.

    ``masks(site, layer)`` is what ``embedding``, ``attention`` (B, H, T, T), ``hidden``, and the
    branches ``attn`` and ``mlp`` are multiplied by; None: nothing is dropped.
    """
    factor = masks or (lambda site, layer: 1.0)
    n_time = tokens.shape[1]
    width, n_head = config.n_embd, config.n_head
    get = tensors.get

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (width,), get(f"{name}.weight"), get(f"{name}.bias"), 1e-5)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, tensors[f"{name}.weight"], get(f"{name}.bias"))

    x = tensors["wte.weight"][tokens] + tensors["wpe.weight"][:n_time]
    x = x * factor("embedding", 0)
    future = torch.ones(n_time, n_time, dtype=torch.bool).triu(1)
    for layer in range(config.n_layer):
        h = f"h.{layer}"
        q, k, v = linear(norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn").split(width, dim=2)
        heads = [t.view(*t.shape[:2], n_head, width // n_head).transpose(1, 2) for t in (q, k, v)]
        scores = heads[0] @ heads[1].transpose(2, 3) / (width // n_head) ** 0.5
        weights = scores.masked_fill(future, -torch.inf).softmax(3) * factor("attention", layer)
        y = (weights @ heads[2]).transpose(1, 2).reshape(x.shape)
        x = x + linear(y, f"{h}.attn.c_proj") * factor("attn", layer)
        up = ACTIVATIONS[config.activation](linear(norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc"))
        x = x + linear(up * factor("hidden", layer), f"{h}.mlp.c_proj") * factor("mlp", layer)
    return norm(x, "ln_f")


def gpt2_head(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Output weights (V, C), which may be the embedding."""
    return tensors.get("lm_head.weight", tensors["wte.weight"])


def gpt2_logits(
    config: Any, tensors: dict[str, torch.Tensor], tokens: torch.Tensor, masks: Any = None
) -> torch.Tensor:
    """Logits (B, T, V) of GPT-2; see :func:`gpt2_hidden`."""
    return F.linear(gpt2_hidden(config, tensors, tokens, masks), gpt2_head(tensors))


def gpt2_outputs(
    config: Any,
    tensors: dict[str, torch.Tensor],
    tokens: torch.Tensor,
    targets: torch.Tensor,
    starts: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each target, 0 where masked, and the score of each position, (B*T,).

    Each document goes through the model alone.
    """
    logp, scores = [], []
    for row, of_row, begins in zip(tokens, targets, starts, strict=True):
        for start in begins.unique().tolist():
            inside = begins == start
            x = gpt2_hidden(config, tensors, row[inside][None].long())[0]
            y = F.linear(x, gpt2_head(tensors)).log_softmax(1)
            wanted = of_row[inside].long()
            taken = y.gather(1, wanted.clamp(min=0)[:, None])[:, 0]
            logp.append(torch.where(wanted >= 0, taken, 0.0))
            scores.append(x @ tensors["score.weight"] + tensors["score.bias"])
    return torch.cat(logp), torch.cat(scores)


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
    logits_of: Any,
    config: Any,
    tensors: dict[str, np.ndarray],
    tokens: Any,
    targets: Any,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> tuple[float, dict[str, np.ndarray]]:
    """Mean loss over unmasked targets and its gradient by every tensor."""
    leaves = {name: torch.tensor(t, requires_grad=True) for name, t in tensors.items()}
    logits = logits_of(config, leaves, torch.tensor(tokens, dtype=torch.long)).flatten(0, 1)
    flat = torch.tensor(targets, dtype=torch.long).flatten()
    loss = F.cross_entropy(logits, flat, ignore_index=-1, label_smoothing=label_smoothing)
    loss = loss + z_loss * (logits[flat >= 0].logsumexp(1) ** 2).mean()
    loss.backward()
    return float(loss.detach()), {name: t.grad.numpy() for name, t in leaves.items()}


def transformer_logits(
    config: Any, tensors: dict[str, torch.Tensor], tokens: torch.Tensor
) -> torch.Tensor:
    """Logits (B, T, V) of any transformer, with tensors named as Llama's; nothing is dropped."""
    n_batch, n_time = tokens.shape
    get, d = tensors.get, config.head_dim or config.n_embd // config.n_head
    n_head, n_kv = config.n_head, config.n_kv_head or config.n_head

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        w, size = tensors[f"{name}.weight"], (x.shape[-1],)
        if config.norm == "layernorm":
            return F.layer_norm(x, size, w, get(f"{name}.bias"), 1e-5)
        return F.rms_norm(x, size, w, config.norm_epsilon)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, tensors[f"{name}.weight"], get(f"{name}.bias"))

    def turned(x: torch.Tensor) -> torch.Tensor:
        if config.positions != "rotary":
            return x
        pair = torch.arange(0, d, 2).double() / d
        angle = torch.arange(n_time)[:, None] * config.rotary_base**-pair
        angle = torch.cat([angle, angle], 1).to(x.dtype)
        halves = torch.cat([-x[..., d // 2 :], x[..., : d // 2]], 3)
        return x * angle.cos() + halves * angle.sin()

    def heads(x: torch.Tensor, of: str, name: str) -> torch.Tensor:
        y = linear(x, f"{of}.{name}_proj").view(n_batch, n_time, -1, d)
        if config.qk_norm and name != "v":
            y = F.rms_norm(y, (d,), tensors[f"{of}.{name}_norm.weight"], config.norm_epsilon)
        y = y.transpose(1, 2)
        return y if name == "v" else turned(y)

    x = tensors["model.embed_tokens.weight"][tokens]
    if config.positions == "learned":
        x = x + tensors["model.embed_positions.weight"][:n_time]
    act = ACTIVATIONS[config.activation]
    for layer in range(config.n_layer):
        of = f"model.layers.{layer}"
        h = norm(x, f"{of}.input_layernorm")
        q, k, v = (heads(h, f"{of}.self_attn", name) for name in "qkv")
        k, v = (part.repeat_interleave(n_head // n_kv, 1) for part in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + linear(y.transpose(1, 2).flatten(2), f"{of}.self_attn.o_proj")
        h = norm(x, f"{of}.post_attention_layernorm")
        up = linear(h, f"{of}.mlp.up_proj")
        up = act(linear(h, f"{of}.mlp.gate_proj")) * up if config.mlp == "gated" else act(up)
        x = x + linear(up, f"{of}.mlp.down_proj")
    head = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"])
    return F.linear(norm(x, "model.norm"), head)
