"""PyTorch as its experts run it: its own attention, fused AdamW, gradients set to None."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benchmarks.peers.decoding import script, steps_of
from benchmarks.protocol import CannotRun, Served
from benchmarks.workloads import (
    BETAS,
    CLIP_NORM,
    EPSILON,
    LEARNING_RATE,
    WEIGHT_DECAY,
    WORKLOADS,
    Workload,
)


def _torch() -> Any:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise CannotRun(f"{error.name} is not installed: pip install -e '.[bench]'") from None
    return torch


def _linear_and_norm(w: Any, width: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The two operations with weights, by the names of their weights."""
    from torch.nn.functional import layer_norm, linear

    return (
        lambda x, name: linear(x, w[f"{name}.weight"]),
        lambda x, name: layer_norm(x, (width,), w[f"{name}.weight"], None, 1e-5),
    )


def train(workload: str, threads: int, weights: str, compiled: bool = False) -> Served:
    """The training step, eager or by ``torch.compile``."""
    torch = _torch()
    import torch.nn.functional as F
    from safetensors.torch import load_file

    torch.set_num_threads(threads)
    sizes = WORKLOADS[workload]
    parameters = {k: v.requires_grad_() for k, v in load_file(weights).items()}
    heads, width = sizes.n_head, sizes.n_embd
    linear, norm = _linear_and_norm(parameters, width)

    def loss_of(tokens: Any, targets: Any) -> Any:
        n_batch, n_time = tokens.shape
        positions = parameters["wpe.weight"][:n_time]
        x = F.embedding(tokens, parameters["wte.weight"]) + positions
        for layer in range(sizes.n_layer):
            h = f"h.{layer}"
            qkv = linear(norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn").split(width, dim=2)
            q, k, v = (part.view(n_batch, n_time, heads, -1).transpose(1, 2) for part in qkv)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            y = y.transpose(1, 2).contiguous().view(n_batch, n_time, width)
            x = x + linear(y, f"{h}.attn.c_proj")
            x = x + linear(F.gelu(linear(norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc")), f"{h}.mlp.c_proj")
        logits = linear(norm(x, "ln_f"), "wte")
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    decayed = [w for w in parameters.values() if w.dim() >= 2]
    others = [w for w in parameters.values() if w.dim() < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": WEIGHT_DECAY},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
        betas=BETAS,
        eps=EPSILON,
        fused=True,
    )
    tokens, targets = (torch.from_numpy(array) for array in sizes.batch())
    forward = torch.compile(loss_of) if compiled else loss_of
    if compiled:
        try:
            forward(tokens, targets).backward()
        except Exception as error:  # of many kinds: no compiler, no headers, one that fails
            text = str(error).strip() or type(error).__name__
            raise CannotRun(f"torch.compile: {text.splitlines()[0]}") from None
        optimizer.zero_grad(set_to_none=True)

    def run() -> float:
        loss = forward(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    kind = "torch.compile" if compiled else "eager"
    return Served(f"PyTorch {torch.__version__}, {kind}, fused AdamW", {"train": run})


def train_compiled(workload: str, threads: int, weights: str) -> Served:
    """The same step by ``torch.compile``."""
    return train(workload, threads, weights, compiled=True)


class Decoder:
    """Token after token, in ``inference_mode``, on a cache that is allocated once."""

    def __init__(self, sizes: Workload, weights: dict[str, Any], samples: int) -> None:
        self._torch = _torch()
        self._w, self._sizes = weights, sizes
        width = sizes.n_embd // sizes.n_head
        shape = (sizes.n_layer, samples, sizes.n_head, sizes.context, width)
        self._keys, self._values = self._torch.zeros(shape), self._torch.zeros(shape)
        self.position = 0

    def append(self, tokens: Any) -> Any:
        """Logits (n, V) after (n, t) more tokens."""
        import torch.nn.functional as F

        sizes = self._sizes
        linear, norm = _linear_and_norm(self._w, sizes.n_embd)
        with self._torch.inference_mode():
            ids = self._torch.from_numpy(tokens)
            n, n_new = ids.shape
            past, stop = self.position, self.position + n_new
            x = F.embedding(ids, self._w["wte.weight"]) + self._w["wpe.weight"][past:stop]
            for layer in range(sizes.n_layer):
                h = f"h.{layer}"
                qkv = linear(norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn").split(sizes.n_embd, dim=2)
                q, k, v = (part.view(n, n_new, sizes.n_head, -1).transpose(1, 2) for part in qkv)
                self._keys[layer, :n, :, past:stop] = k
                self._values[layer, :n, :, past:stop] = v
                keys, values = (c[layer, :n, :, :stop] for c in (self._keys, self._values))
                y = F.scaled_dot_product_attention(q, keys, values, is_causal=n_new > 1)
                x = x + linear(y.transpose(1, 2).flatten(2), f"{h}.attn.c_proj")
                up = F.gelu(linear(norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc"))
                x = x + linear(up, f"{h}.mlp.c_proj")
            self.position = stop
            return linear(norm(x[:, -1], "ln_f"), "wte").numpy()

    def prompt(self, ids: Any) -> Any:
        """Logits (n, V) after a prompt (t,), which is processed once and copied to every sample."""
        self.position = 0
        logits = self.append(ids[None])
        stop, n = self.position, self._keys.shape[1]
        for cache in (self._keys, self._values):
            cache[:, 1:, :, :stop] = cache[:, :1, :, :stop]
        return logits.repeat(n, axis=0)


def decode(workload: str, threads: int, weights: str, context: int, samples: int) -> Served:
    """The decoder on bptool's weights."""
    torch = _torch()
    from safetensors.torch import load_file

    torch.set_num_threads(threads)
    sizes = replace(WORKLOADS[workload], context=context)
    decoder = Decoder(sizes, load_file(weights), samples)
    timed = steps_of(script(sizes, samples), decoder.prompt, decoder.append, weights, "pytorch")
    return Served(f"PyTorch {torch.__version__}, cache of keys and values", timed)
