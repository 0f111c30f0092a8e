"""``python -m benchmarks.generate``: tokens a second on workload C, against PyTorch and memory.

Three figures in turn, round by round: what this machine reads from memory with every core; bptool
with its cache; PyTorch with a preallocated cache of keys and values, in ``inference_mode``. First
both must give the same logits after a prompt and after each of some tokens.

The share of memory is (bytes of weights that a token reads) / (seconds a token) / (bytes a second
read): all weights but the rows of the embeddings that are not looked up; the tied head reads the
token embedding whole.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.workloads import WORKLOADS, Workload
from bptool.ops.jit import kernel
from bptool.ops.team import share

TOLERANCE = 2e-4
READS = 4
"""Reads a round, of which the fastest counts: it is a limit, and one takes 25 ms only."""


@kernel
def total(x: Any) -> Any:
    """Sum of a vector: reads it once."""
    found = x.dtype.type(0.0)
    for i in range(x.size):
        found += x[i]
    return found


class TorchDecoder:
    """The same architecture written plainly with torch, its cache allocated once."""

    def __init__(self, workload: Workload, weights: dict[str, Any], n: int, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._w = {name: torch.from_numpy(w) for name, w in weights.items()}
        self._sizes, self._n = workload, n
        head = workload.n_embd // workload.n_head
        shape = (workload.n_layer, n, workload.n_head, workload.context, head)
        self._keys, self._values = torch.zeros(shape), torch.zeros(shape)
        self.position = 0

    def append(self, tokens: Any) -> Any:
        """Logits (n, V) after (n, t) more tokens."""
        import torch
        import torch.nn.functional as F

        w, heads, width = self._w, self._sizes.n_head, self._sizes.n_embd
        with torch.inference_mode():
            ids = torch.from_numpy(tokens)
            n, n_new = ids.shape
            past, stop = self.position, self.position + n_new
            x = F.embedding(ids, w["wte.weight"]) + w["wpe.weight"][past:stop]
            for layer in range(self._sizes.n_layer):
                h = f"h.{layer}"
                norm = F.layer_norm(x, (width,), w[f"{h}.ln_1.weight"])
                qkv = F.linear(norm, w[f"{h}.attn.c_attn.weight"])
                q, k, v = (
                    part.view(n, n_new, heads, -1).transpose(1, 2)
                    for part in qkv.split(width, dim=2)
                )
                self._keys[layer, :, :, past:stop], self._values[layer, :, :, past:stop] = k, v
                keys = self._keys[layer, :, :, :stop]
                values = self._values[layer, :, :, :stop]
                y = F.scaled_dot_product_attention(q, keys, values, is_causal=n_new > 1)
                y = y.transpose(1, 2).reshape(n, n_new, width)
                x = x + F.linear(y, w[f"{h}.attn.c_proj.weight"])
                norm = F.layer_norm(x, (width,), w[f"{h}.ln_2.weight"])
                up = F.gelu(F.linear(norm, w[f"{h}.mlp.c_fc.weight"]))
                x = x + F.linear(up, w[f"{h}.mlp.c_proj.weight"])
            self.position = stop
            last = F.layer_norm(x[:, -1], (width,), w["ln_f.weight"])
            return F.linear(last, w["wte.weight"]).numpy()


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main(
    samples: Annotated[int, typer.Option(help="Sequences side by side.", min=1)] = 1,
    prompt: Annotated[int, typer.Option(help="Tokens of the prompt.", min=1)] = 32,
    tokens: Annotated[int, typer.Option(help="Tokens a round.", min=1)] = 16,
    rounds: Annotated[int, typer.Option(help="Turns of each.", min=1)] = 5,
    context: Annotated[int, typer.Option(help="Of the model.", min=1)] = 256,
    threads: Annotated[int, typer.Option(help="0: every core.", min=0)] = 0,
) -> None:
    """Time token after token of bptool, PyTorch and a plain read in turn."""
    from dataclasses import replace

    from bptool.models.gpt2 import GPT2, GPT2Config
    from bptool.training.machine import usable_cores
    from bptool.training.workers import WorkerTeam

    threads = threads or usable_cores()
    workload = replace(WORKLOADS["C"], context=context)
    sizes = {k: getattr(workload, k) for k in ("n_layer", "n_head", "n_embd", "context")}
    model = GPT2(GPT2Config(**sizes, bias=False), workload.vocab_size)
    weights = model.layout.allocate(np.float32)
    model.initialise(weights, 7)
    team = WorkerTeam(threads)
    ours = model.decoder(model.params(weights), samples, team)
    theirs = TorchDecoder(workload, model.layout.named(weights), samples, threads)
    generator = np.random.default_rng(11)
    length = prompt + (rounds + 1) * tokens
    ids = np.repeat(generator.integers(0, workload.vocab_size, (1, length)), samples, axis=0)
    ids[:, prompt:] = generator.integers(0, workload.vocab_size, (samples, length - prompt))

    def ours_prompt() -> Any:
        ours.select([])
        ours.add(1)
        ours.append([ids[0, :prompt]])
        ours.select([0] * samples)

    def theirs_prompt() -> Any:
        theirs.position = 0
        theirs.append(ids[:, :prompt])

    ours_prompt()
    theirs_prompt()
    prompts = [(seconds(ours_prompt), seconds(theirs_prompt)) for _ in range(rounds)]
    found: dict[str, list[float]] = {"bptool": [], "PyTorch": [], "read": []}
    shares = [share(weights.size, 16, member) for member in team.members]

    def read() -> None:
        team.run(lambda i: total(weights[shares[i][0] : shares[i][1]]))

    place = prompt
    for turn in range(rounds + 1):
        new = ids[:, place : place + tokens]
        logits: dict[str, list[Any]] = {"bptool": [], "PyTorch": []}

        def run_ours(new: Any = new, kept: Any = logits["bptool"]) -> None:
            kept += [ours.append(list(new[:, t : t + 1])).copy() for t in range(tokens)]

        def run_theirs(new: Any = new, kept: Any = logits["PyTorch"]) -> None:
            kept += [theirs.append(new[:, t : t + 1]) for t in range(tokens)]

        timed = {"bptool": run_ours, "PyTorch": run_theirs, "read": read}
        for name, function in timed.items():
            taken = min(seconds(function) for _ in range(READS if function is read else 1))
            if turn:  # the first is to warm up
                found[name].append(taken)
        for a, b in zip(*logits.values(), strict=True):
            if not np.allclose(a, b, atol=TOLERANCE):
                raise SystemExit(f"benchmark: logits differ by {np.abs(a - b).max()}")
        place += tokens
    team.close()
    bandwidths = [weights.nbytes / t for t in found["read"]]
    n_read = weights.nbytes - 4 * context * workload.n_embd
    steps = [t / tokens for t in found["bptool"]]
    shares_of_memory = [n_read / s / b for s, b in zip(steps, bandwidths, strict=True)]
    ratios = [b / a for a, b in zip(found["bptool"], found["PyTorch"], strict=True)]
    middle = statistics.median
    print(f"{threads} threads, {samples} sequences, prompt {prompt}, context {context}")
    print(f"memory, read by all cores: {middle(bandwidths) / 1e9:.1f} GB/s")
    for name in ("bptool", "PyTorch"):
        step = middle(found[name]) / tokens
        print(f"{name}: {step * 1e3:.1f} ms a step, {samples / step:.1f} tokens/s")
    print(f"share of memory: {middle(shares_of_memory):.0%}, {min(shares_of_memory):.0%} at least")
    print(f"PyTorch / bptool: {middle(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})")
    a, b = (middle(times) for times in zip(*prompts, strict=True))
    print(f"prompt: bptool {a * 1e3:.0f} ms, PyTorch {b * 1e3:.0f} ms, ratio {b / a:.2f}")


if __name__ == "__main__":
    typer.run(main)
