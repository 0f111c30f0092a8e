"""One training step of each peer on the same weights and batch; run as a process by protocol.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.protocol import batch, serve
from benchmarks.workloads import (
    BETAS,
    CLIP_NORM,
    LEARNING_RATE,
    WEIGHT_DECAY,
    WORKLOADS,
    Workload,
)


def bptool(workload: Workload, threads: int, weights: Path) -> None:
    """bptool's own step; writes its initial weights for the others."""
    import safetensors.numpy

    from bptool.models.gpt2 import GPT2, GPT2Config
    from bptool.optim.adamw import AdamW
    from bptool.training.machine import choose_engine
    from bptool.training.regularization import Clipping
    from bptool.training.split import choose_split
    from bptool.training.step import Shards, TrainingStep
    from bptool.training.workers import WorkerTeam

    sizes = {k: getattr(workload, k) for k in ("n_layer", "n_head", "n_embd", "context")}
    model = GPT2(GPT2Config(**sizes, bias=False), workload.vocab_size)
    engine = choose_engine("auto")
    rows = workload.batch_size
    split = choose_split("auto", threads, rows, model.layout.size * 4)
    team = WorkerTeam(threads if split == "inside" else min(threads, rows))
    shards = Shards(model, team, engine, rows, workload.context, split=split)
    config = AdamW.Config(
        learning_rate=LEARNING_RATE, beta1=BETAS[0], beta2=BETAS[1], weight_decay=WEIGHT_DECAY
    )
    step = TrainingStep(shards, AdamW(config), clipping=Clipping(CLIP_NORM))
    model.initialise(step.weights, 7)
    safetensors.numpy.save_file(model.layout.named(step.weights), weights)
    step.compile()
    tokens, targets = (array.astype(np.int32) for array in batch(workload))
    count = 0

    def train() -> float:
        nonlocal count
        count += 1
        return step(tokens, targets, tokens.size, LEARNING_RATE, 0, count).loss

    first = shards.loss(step.params, tokens, targets) / tokens.size
    serve(first, f"{engine.name}: {engine.version}, split {split}", train)


def torch_step(workload: Workload, threads: int, weights: Path, compiled: bool) -> None:
    """PyTorch: scaled_dot_product_attention, fused AdamW, gradients set to None."""
    import safetensors.torch
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(threads)
    tensors = {k: v.requires_grad_() for k, v in safetensors.torch.load_file(weights).items()}
    heads, width = workload.n_head, workload.n_embd

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        def norm(x: torch.Tensor, name: str) -> torch.Tensor:
            return F.layer_norm(x, (width,), tensors[f"{name}.weight"], None, 1e-5)

        n_batch, n_time = tokens.shape
        x = F.embedding(tokens, tensors["wte.weight"]) + tensors["wpe.weight"][:n_time]
        for layer in range(workload.n_layer):
            h = f"h.{layer}"
            qkv = F.linear(norm(x, f"{h}.ln_1"), tensors[f"{h}.attn.c_attn.weight"])
            q, k, v = (
                part.view(n_batch, n_time, heads, width // heads).transpose(1, 2)
                for part in qkv.split(width, dim=2)
            )
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            y = y.transpose(1, 2).contiguous().view(n_batch, n_time, width)
            x = x + F.linear(y, tensors[f"{h}.attn.c_proj.weight"])
            up = F.gelu(F.linear(norm(x, f"{h}.ln_2"), tensors[f"{h}.mlp.c_fc.weight"]))
            x = x + F.linear(up, tensors[f"{h}.mlp.c_proj.weight"])
        return F.linear(norm(x, "ln_f"), tensors["wte.weight"])

    def loss_of(tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits(tokens).flatten(0, 1), targets.flatten())

    decayed = [t for t in tensors.values() if t.dim() >= 2]
    others = [t for t in tensors.values() if t.dim() < 2]
    groups = [
        {"params": decayed, "weight_decay": WEIGHT_DECAY},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, fused=True)
    tokens, targets = (torch.from_numpy(array) for array in batch(workload))
    forward: Any = torch.compile(loss_of) if compiled else loss_of

    def train() -> float:
        loss = forward(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(tensors.values()), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    with torch.no_grad():
        first = float(loss_of(tokens, targets))
    kind = "torch.compile" if compiled else "eager"
    serve(first, f"PyTorch {torch.__version__}, {kind}, fused AdamW", train)


def main() -> None:
    name, workload, threads, weights = sys.argv[1:]
    arguments = (WORKLOADS[workload], int(threads), Path(weights))
    if name == "bptool":
        bptool(*arguments)
    elif name in ("pytorch", "pytorch-compile"):
        torch_step(*arguments, compiled=name == "pytorch-compile")
    else:
        raise SystemExit(f"no such peer: {name}")


if __name__ == "__main__":
    main()
