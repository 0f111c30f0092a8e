"""``python -m benchmarks rollouts``: sampling answers side by side or one prompt at a time.

One prompt at a time is measured twice: token by token with the cache of keys and values, and with a
forward over the whole text for each token, as a program without a cache does it. Both sample fewer
answers than the batch has, and are counted by the token.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.results import Result, Series
from benchmarks.turns import in_turn
from benchmarks.workloads import WORKLOADS

PROMPT_TOKENS = (10, 24)
ALONE, WITHOUT_CACHE = 4, 1
"""Prompts that are answered one at a time, and without a cache, in a turn."""
MEASURED = "measured in this process, in turn"


def measure(workload: str, prompts: int, tokens: int, n_turns: int, threads: int) -> Result:
    """Seconds of a sampled token."""
    from bptool.training.machine import choose_engine
    from bptool.training.token_shards import TokenShards
    from bptool.training.workers import WorkerTeam

    sizes = WORKLOADS[workload]
    with WorkerTeam(threads) as team:
        model = sizes.model()
        shards = TokenShards(
            *(model, team, choose_engine("auto"), sizes.batch_size, sizes.context),
            documents=True,
        )
        weights = model.layout.allocate(np.float32)
        model.initialise(weights, 0)
        params = model.params(weights)
        sampling = _sampling(shards, params, prompts, tokens, n_turns)
    return Result(
        *("rollouts", f"{workload}, {prompts} prompts, {tokens} tokens each"),
        *("a sampled token", "seconds"),
        series=[Series(name, samples, MEASURED) for name, samples in sampling.items()],
        facts={"tokens": 1},
    )


def _sampling(
    shards: Any, params: Any, n: int, tokens: int, n_turns: int
) -> dict[str, list[float]]:
    from bptool.data.chat.rendering import Rendering
    from bptool.data.tokenizers.byte import ByteConfig, ByteTokenizer
    from bptool.training.answers_now import sample_answers

    # answers go on to their last token, since the tokenizer has none that ends them
    rendering = Rendering(None, ByteTokenizer.train([], ByteConfig()))
    rng = np.random.default_rng(3)
    vocab = shards.model.n_vocab
    prompts = [
        rng.integers(0, vocab, rng.integers(*PROMPT_TOKENS)).astype(np.int32) for _ in range(n)
    ]

    def batched() -> float:
        start = time.perf_counter()
        sample_answers(shards, params, prompts, 1, tokens, rendering, 0)
        return (time.perf_counter() - start) / (n * tokens)

    def alone() -> float:
        start = time.perf_counter()
        for number, prompt in enumerate(prompts[:ALONE]):
            sample_answers(shards, params, [prompt], 1, tokens, rendering, 0, number)
        return (time.perf_counter() - start) / (min(ALONE, n) * tokens)

    turns = {
        "batched": batched,
        "one at a time": alone,
        "no cache": lambda: _no_cache(
            shards.model, params, shards.team, prompts[:WITHOUT_CACHE], tokens
        ),
    }
    for warm in turns.values():
        warm()
    return in_turn(turns, n_turns)


def _no_cache(model: Any, params: Any, team: Any, prompts: Any, tokens: int) -> float:
    """Seconds a token where each has a forward over the whole text."""
    from bptool.inference.sampling import Sampling

    sampling, start = Sampling(), time.perf_counter()
    for prompt in prompts:
        text = prompt.tolist()
        for position in range(tokens):
            decoder = model.decoder(params, 1, team)
            decoder.add(1)
            logits = decoder.append([np.array(text[-model.context :], np.int32)])
            text.append(sampling.choose(logits[0], 0, position))
    return (time.perf_counter() - start) / (len(prompts) * tokens)
