"""``python -m benchmarks generate``: tokens a second, against PyTorch and the speed of memory.

bptool's decoder and PyTorch with a preallocated cache of keys and values are processes of their
own and run in turn with a plain read of as many bytes by all cores. First both must give the same
logits after a prompt and after each of some tokens. A prompt is processed once for all samples.

The share of memory speed is (bytes of weights that a token reads) / (seconds a token) / (bytes a
second read): all weights but the rows of the embeddings that are not looked up; the tied head reads
the token embedding whole.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.peers.decoding import PROMPT, largest_difference
from benchmarks.protocol import CannotRun, Contender
from benchmarks.results import Result, Series
from benchmarks.turns import in_turn
from benchmarks.workloads import WORKLOADS

TOLERANCE = 2e-4
READS = 4
"""Reads a turn, of which the fastest counts, since it is a limit."""


def measure(
    workload: str, samples: int, tokens: int, context: int, n_turns: int, threads: int
) -> list[Result]:
    """Two results: a prompt, and a step of one token for each of ``samples`` sequences."""
    sizes = replace(WORKLOADS[workload], context=context)
    layout = sizes.model().layout
    n_bytes = 4 * (layout.size - context * sizes.n_embd)
    turns: dict[str, Callable[[], float]] = {}
    prompts: dict[str, list[float]] = {}
    about, left_out = {}, {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        weights = str(Path(folder) / "weights.safetensors")
        settings = {"workload": workload, "context": context, "samples": samples}
        for name in ("bptool", "pytorch"):
            more = {**settings, "threads": threads, "weights": weights}
            try:
                contender = Contender(f"{name}-decode", more)
            except CannotRun as error:
                left_out[name] = str(error)
                continue
            stack.callback(contender.close)
            if not largest_difference(weights, "bptool", name) <= TOLERANCE:
                raise SystemExit(f"benchmark: {name}'s logits are not those of bptool")
            about[name] = contender.about

            def turn(one: Contender = contender, kept: str = name) -> float:
                prompts.setdefault(kept, []).extend(one.run("prompt"))
                return statistics.median(one.run("token", tokens))

            turns[name] = turn
        reader = Contender("read", {"threads": threads, "millions": layout.size / 1e6})
        stack.callback(reader.close)
        turns["read"] = lambda: min(reader.run("read", READS))
        for warm in turns.values():
            warm()
        prompts.clear()
        found = in_turn(turns, n_turns)
    speed = [reader.facts["bytes"] / seconds for seconds in found.pop("read")]
    case = f"{workload}, {samples} sample{'s' * (samples > 1)}"
    return [
        Result(
            benchmark="generate",
            case=f"{case}, {what}",
            title=title,
            unit="seconds",
            series=[Series(name, times, about[name]) for name, times in taken.items()],
            rates=rates,
            facts=facts,
            left_out=left_out,
        )
        for what, title, taken, rates, facts in (
            (
                *("a token", f"{tokens} after a prompt of {PROMPT}, context {context}", found),
                *({"memory": speed}, {"tokens": samples, "bytes": n_bytes}),
            ),
            ("the prompt", f"{PROMPT} tokens, for all samples", prompts, {}, {"tokens": PROMPT}),
        )
    ]
