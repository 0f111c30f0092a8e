"""``python -m benchmarks data``: tokenizing and drawing batches, against the libraries by hand.

Tokenizing is compared with the ``tokenizers`` library as its documentation shows it, and on slices
of 64 Ki characters, with the bundled stories or a text of yours; both learn the same merges, must
cut a text at the same places, and may use every core.
Batches are compared with numpy by hand, as nanoGPT draws them, and with the step they are for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.protocol import ROOT
from benchmarks.results import Result, Series
from benchmarks.train import training
from benchmarks.turns import in_turn, median_of, timed
from benchmarks.workloads import WORKLOADS
from bptool.data.batches import Batches
from bptool.data.encoding import encode_documents
from bptool.data.tokenizers.bpe import BpeConfig, BpeTokenizer, slices_of

TEXT = ROOT / "data" / "stories.txt"
CHARACTERS = 4_000_000
"""Of the text that is encoded, which is repeated where it has fewer."""
VOCABULARY = 1536
SECONDS_A_TURN = 0.3
N_TOKENS = 1_000_000
"""Of the text that batches are drawn from."""


def library_tokenizer(text: str) -> Any:
    """A byte-level BPE of the ``tokenizers`` library, trained on ``text``."""
    import tokenizers as hf

    made = hf.Tokenizer(hf.models.BPE())
    made.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = hf.trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        initial_alphabet=sorted(hf.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator([text], trainer)
    return made


def counting(turn: Callable[[], float], cores: list[float]) -> Callable[[], float]:
    """``turn``, with the cores it kept busy added to ``cores`` each time."""

    def sample() -> float:
        seconds, busy = time.perf_counter(), time.process_time()
        found = turn()
        cores.append((time.process_time() - busy) / (time.perf_counter() - seconds))
        return found

    return sample


def tokenizing(n_turns: int, path: Path = TEXT) -> list[Result]:
    """Learning a vocabulary from a text, and encoding the text with it.

    Raises:
        SystemExit: the two cut the text at different places.
    """
    text = path.read_text(encoding="utf-8")
    long = text * -(-CHARACTERS // len(text))
    config = BpeConfig(vocab_size=VOCABULARY)
    ours, theirs = BpeTokenizer.train([text], config), library_tokenizer(text)
    lengths = [len(token) for token in theirs.encode(text).tokens]  # a character for each byte
    if ours.token_bytes()[ours.encode(text)].tolist() != lengths:
        raise SystemExit("benchmark: bptool and tokenizers cut the text at different places")

    def ids(encodings: list[Any]) -> Any:
        return np.concatenate([np.array(one.ids, np.int32) for one in encodings])

    def in_batches() -> Any:
        return np.concatenate([b.ids for b in encode_documents(iter([(0, long)]), "", False, ours)])

    documents = [f"{story}\n\n" for story in long.split("\n\n")]
    slices = list(slices_of(long))
    cases: dict[str, tuple[str, dict[str, Callable[[], object]]]] = {
        "learning a vocabulary": (
            f"{len(text):,} characters, {VOCABULARY} tokens",
            {
                "bptool": lambda: BpeTokenizer.train([text], config),
                "tokenizers": lambda: library_tokenizer(text),
            },
        ),
        "encoding": (
            f"{len(long):,} characters",
            {
                "bptool": in_batches,
                "bptool, the text at once": lambda: ours.encode(long),
                "tokenizers, the text at once": lambda: ids([theirs.encode(long)]),
                "tokenizers, encode_batch": lambda: ids(theirs.encode_batch(documents)),
                "tokenizers, encode_batch_fast": lambda: ids(theirs.encode_batch_fast(documents)),
                "tokenizers, encode_batch_fast of slices": lambda: ids(
                    theirs.encode_batch_fast(slices)
                ),
            },
        ),
    }
    found = []
    for case, (title, functions) in cases.items():
        cores: dict[str, list[float]] = {name: [] for name in functions}
        turns = {
            name: counting(median_of(timed(f), SECONDS_A_TURN), cores[name])
            for name, f in functions.items()
        }
        samples = in_turn(turns, n_turns)
        series = [Series(name, samples[name], cores=cores[name]) for name in functions]
        found.append(Result("data", case, title, "seconds", series))
    return found


def batches(workload: str, n_turns: int, threads: int) -> Result:
    """Drawing a mini-batch, by bptool and by hand, beside the step that waits for it."""
    sizes = WORKLOADS[workload]
    rows, context = sizes.batch_size, sizes.context
    generator = np.random.default_rng(3)
    text = generator.integers(0, sizes.vocab_size, N_TOKENS).astype(np.uint16)
    ours = Batches(text, rows, context)
    tokens, targets = (np.empty((rows, context), np.int32) for _ in range(2))
    count = 0

    def fill() -> None:
        nonlocal count
        count += 1
        ours.fill(count, tokens, targets)

    def by_hand() -> Any:
        starts = generator.integers(0, len(text) - context, rows)
        return (
            np.stack([text[i : i + context].astype(np.int64) for i in starts]),
            np.stack([text[i + 1 : i + 1 + context].astype(np.int64) for i in starts]),
        )

    functions = {"bptool": fill, "numpy by hand": by_hand}
    turns = {name: median_of(timed(f), SECONDS_A_TURN) for name, f in functions.items()}
    with training(workload, [], threads) as ((step, *_), _):
        turns["the step"] = median_of(partial(step.run, "train"), SECONDS_A_TURN)
        found = in_turn(turns, n_turns)
    return Result(
        benchmark="data",
        case=f"batches of {workload}",
        title=f"{rows} x {context} tokens",
        unit="seconds",
        series=[Series(name, samples) for name, samples in found.items()],
        facts={"tokens": sizes.tokens},
    )


def measure(
    workloads: list[str], n_turns: int, threads: int, path: Path = TEXT
) -> Iterator[list[Result]]:
    """Tokenizing the text at ``path``, then the batches of each workload."""
    yield tokenizing(n_turns, path)
    for name in workloads:
        yield [batches(name, n_turns, threads)]
