"""``python -m benchmarks rollouts``: sampling answers side by side or one prompt at a time, and
a step of DPO against a step of pretraining, both as training calls them.

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
from benchmarks.workloads import WORKLOADS, Workload

PROMPT_TOKENS = (10, 24)
ANSWER_TOKENS = (4, 20)
ALONE, WITHOUT_CACHE = 4, 1
"""Prompts that are answered one at a time, and without a cache, in a turn."""
MEASURED = "measured in this process, in turn"


def measure(workload: str, prompts: int, tokens: int, n_turns: int, threads: int) -> list[Result]:
    """Two results: a sampled token, and a trained token."""
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
        training = _training(shards, params, sizes, n_turns)
    about = dict.fromkeys((*sampling, *training), MEASURED)
    case = f"{workload}, {prompts} prompts, {tokens} tokens each"
    return [
        Result(
            *("rollouts", what, title, "seconds"),
            series=[Series(name, samples, about[name]) for name, samples in taken.items()],
            facts={"tokens": 1},
        )
        for what, title, taken in (
            (case, "a sampled token", sampling),
            (f"{workload}, DPO", "a trained token", training),
        )
    ]


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


def _training(shards: Any, params: Any, sizes: Workload, n_turns: int) -> dict[str, list[float]]:
    """Seconds for each token of the rows that is one of a text, padding not counted."""
    from bptool.data.preference_set import Document, Unit, UnitBatches, pack_documents
    from bptool.objectives.answers import Answers
    from bptool.objectives.dpo import DPO, DPOConfig
    from bptool.training.answers_now import rows_of

    rng = np.random.default_rng(4)
    vocab, context = shards.model.n_vocab, sizes.context

    def document() -> Document:
        asked, said = rng.integers(*PROMPT_TOKENS), rng.integers(*ANSWER_TOKENS)
        ids = rng.integers(0, vocab, min(asked + said, context)).astype(np.int32)
        return Document(ids, max(1, len(ids) - said))

    units = [Unit(document(), document(), 0, (), "") for _ in range(2 * sizes.tokens // 30)]
    batches = UnitBatches(units, context, sizes.batch_size, 0, scored=False)
    objective, step = DPO(DPOConfig()), iter(range(1, 10**9))
    tokens, targets = (x.astype(np.int32) for x in sizes.batch())
    whole = np.zeros_like(tokens)

    def pretraining() -> float:
        start = time.perf_counter()
        shards.loss_and_gradient(params, tokens, targets, tokens.size, 0, 1, whole)
        return (time.perf_counter() - start) / tokens.size

    def dpo() -> float:
        start = time.perf_counter()
        own = [units[i] for i in batches.batch(1 + next(step) % 2)]
        packed = pack_documents([d for unit in own for d in unit[:2]], context, scored=False)
        batch = Answers(packed.owner, np.zeros(len(packed.last)))
        shards.gradient_of(objective, batch, params, rows_of(packed), 0, 1)
        return (time.perf_counter() - start) / int(packed.rows.used.sum())

    turns = {"pretraining": pretraining, "DPO": dpo}
    for warm in turns.values():
        warm()
    return in_turn(turns, n_turns)
