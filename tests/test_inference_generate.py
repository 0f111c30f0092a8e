"""The incremental decoders against the whole forward, and text made token by token."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bptool.data.tokenizers.byte import ByteTokenizer
from bptool.data.tokenizers.char import CharTokenizer
from bptool.errors import DataError
from bptool.inference.generate import generate
from bptool.inference.sampling import Sampling
from bptool.inference.writer import Writer
from bptool.models import transformer_decode
from bptool.models.mlp import MLP, MLPConfig
from bptool.models.presets import GPT2, GPT2Config, Llama, LlamaConfig
from bptool.models.transformer_decode import BLOCK_ROWS
from bptool.ops.attention_decode import PAGE
from bptool.training.machine import choose_engine
from bptool.training.workers import WorkerTeam

N_VOCAB, CONTEXT = 23, 12
GPT2_OPTIONS = {"n_layer": 2, "n_head": 2, "n_embd": 16, "context": CONTEXT, "dropout": 0.5}
LLAMA_OPTIONS: dict[str, Any] = {"n_head": 6, "n_kv_head": 2, "head_dim": 4, "qk_norm": True}
MLP_OPTIONS = {"window": 4, "n_embd": 5, "n_hidden": 12, "n_layer": 2, "context": CONTEXT}
MODELS: dict[str, Any] = {
    "gpt2": GPT2(GPT2Config(**GPT2_OPTIONS), N_VOCAB),
    "gpt2 without biases, untied": GPT2(
        GPT2Config(**GPT2_OPTIONS, bias=False, tie_embeddings=False), N_VOCAB
    ),
    "llama": Llama(LlamaConfig(**GPT2_OPTIONS | LLAMA_OPTIONS), N_VOCAB),
    "mlp": MLP(MLPConfig(**MLP_OPTIONS, dropout=0.5), N_VOCAB),
}
ENGINE = choose_engine("auto")
CASES = pytest.mark.parametrize("name", MODELS)


def params_of(model: Any, dtype: str = "float32") -> Any:
    """Weights far enough from zero that no two tokens look alike."""
    weights = model.layout.allocate(dtype)
    model.initialise(weights, 1)
    weights += 0.2 * np.random.default_rng(1).standard_normal(weights.size).astype(dtype)
    return model.params(weights)


def forward_logits(model: Any, params: Any, tokens: Any, dtype: str) -> Any:
    """Logits (B, T, V) of the training forward, without dropout."""
    n_batch, n_time = tokens.shape
    space = model.workspace(n_batch, n_time, dtype, ENGINE.make(dtype))
    model.loss(params, space, tokens, np.zeros_like(tokens))
    return space.acts.logits.reshape(n_batch, n_time, -1).copy()


def random_tokens(n_batch: int, n_time: int) -> Any:
    return np.random.default_rng(2).integers(0, N_VOCAB, (n_batch, n_time)).astype(np.int32)


def decode(model: Any, params: Any, workers: Any, sequences: list[Any], cuts: list[int]) -> Any:
    """Logits after each of ``sequences``, appended to one decoder in ``cuts`` parts each."""
    decoder = model.decoder(params, len(sequences), workers)
    decoder.add(len(sequences))
    parts = [np.array_split(s, n) for s, n in zip(sequences, cuts, strict=True)]
    found: list[Any] = [None] * len(sequences)
    order = list(range(len(sequences)))
    while order:  # each leaves the decoder when its tokens are used up
        logits = decoder.append([parts[i].pop(0) for i in order])
        for place, i in enumerate(order):
            found[i] = logits[place].copy()
        left = [place for place, i in enumerate(order) if parts[i]]
        decoder.select(left)
        order = [order[place] for place in left]
    return np.array(found)


@CASES
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float64", 1e-12)])
def test_decoding_equals_the_forward(name: str, dtype: str, tolerance: float) -> None:
    """Sequences of every length at once, in ever more parts."""
    model = MODELS[name]
    params, tokens = params_of(model, dtype), random_tokens(CONTEXT, CONTEXT)
    want = forward_logits(model, params, tokens, dtype)
    lengths = np.arange(1, CONTEXT + 1)
    sequences = [row[:n] for row, n in zip(tokens, lengths, strict=True)]
    with WorkerTeam(1) as workers:
        for n_parts in (1, 2, CONTEXT):
            found = decode(model, params, workers, sequences, [min(n_parts, n) for n in lengths])
            for row, n in enumerate(lengths):
                largest = max(1.0, float(np.abs(want[row, n - 1]).max()))
                assert found[row] == pytest.approx(want[row, n - 1], abs=tolerance * largest)


SIZES = st.fixed_dictionaries(
    {
        "n_layer": st.integers(1, 2),
        "n_head": st.integers(1, 3),
        "head": st.sampled_from([1, 3, 8, 17]),
        "context": st.sampled_from([1, 7, PAGE, 3 * PAGE + 5, BLOCK_ROWS + 20]),
        "activation": st.sampled_from(["gelu", "relu"]),
        "variant": st.sampled_from(
            [{}, {"positions": "rotary", "mlp": "gated", "n_kv_head": 1, "norm": "rmsnorm"}]
        ),
    }
)


@given(sizes=SIZES, data=st.data(), n_workers=st.integers(1, 3), n=st.integers(1, 5))
@settings(max_examples=25)
def test_what_a_sequence_becomes_depends_on_nothing_else(
    sizes: dict[str, Any], data: Any, n_workers: int, n: int
) -> None:
    """Bit for bit: not on the others, the parts, or the workers; and it is the forward's."""
    head, variant = sizes.pop("head"), sizes.pop("variant")
    head += head % 2 if variant else 0  # rotary positions turn pairs
    config = GPT2Config(**sizes, **variant, n_embd=head * sizes["n_head"])
    model = GPT2(config, N_VOCAB)
    params = params_of(model, "float64")
    lengths = [data.draw(st.integers(1, model.context), label="length") for _ in range(n)]
    cuts = [data.draw(st.integers(1, length), label="parts") for length in lengths]
    tokens = random_tokens(n, model.context)
    sequences = [row[:length] for row, length in zip(tokens, lengths, strict=True)]
    want = forward_logits(model, params, tokens, "float64")
    with WorkerTeam(1) as one, WorkerTeam(n_workers) as workers, whole_team():
        together = decode(model, params, workers, sequences, cuts)
        for i, sequence in enumerate(sequences):
            alone = decode(model, params, one, [sequence], [1])[0]
            assert np.array_equal(together[i], alone)
            assert alone == pytest.approx(want[i, lengths[i] - 1], rel=1e-12, abs=1e-12)


@contextlib.contextmanager
def whole_team() -> Iterator[None]:
    """Small models too are decoded by every worker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformer_decode, "TEAM_WEIGHTS", 0)
        yield


@CASES
@given(data=st.data())
@settings(max_examples=15)
def test_forks_and_drops_leave_each_sequence_its_own_past(name: str, data: Any) -> None:
    """A random walk of appends, selections and restarts against sequences decoded alone."""
    model = MODELS[name]
    params = params_of(model, "float64")
    capacity = 4
    with WorkerTeam(1) as workers:
        decoder = model.decoder(params, capacity, workers)
        decoder.add(2)
        pasts: list[list[int]] = [[], []]
        for _ in range(6):
            if data.draw(st.booleans()):
                which = st.lists(st.integers(0, len(pasts) - 1), min_size=1, max_size=capacity)
                parents = data.draw(which)
                decoder.select(parents)
                pasts = [list(pasts[parent]) for parent in parents]
            for sequence, past in enumerate(pasts):
                if len(past) == CONTEXT:
                    decoder.restart(sequence)
                    past.clear()
            new = [
                data.draw(st.lists(st.integers(0, N_VOCAB - 1), min_size=1, max_size=CONTEXT))
                for _ in pasts
            ]
            new = [ids[: CONTEXT - len(past)] for ids, past in zip(new, pasts, strict=True)]
            logits = decoder.append([np.array(ids) for ids in new]).copy()
            for past, ids in zip(pasts, new, strict=True):
                past += ids
            alone = decode(model, params, workers, [np.array(p) for p in pasts], [1] * len(pasts))
            assert np.array_equal(logits, alone)


def test_samples_of_a_prompt_store_it_once() -> None:
    model = GPT2(GPT2Config(n_layer=1, n_head=1, n_embd=4, context=4 * PAGE), N_VOCAB)
    with WorkerTeam(1) as workers:
        decoder = model.decoder(params_of(model), 8, workers)
        decoder.add(1)
        decoder.append([random_tokens(1, 2 * PAGE + 3)[0]])
        assert decoder.cache.n_pages == 3
        decoder.select([0] * 8)
        assert decoder.cache.n_pages == 3
        decoder.append([np.array([i]) for i in range(8)])
        assert decoder.cache.n_pages == 2 + 8  # whole pages are shared, the one in use is not
        decoder.select([5])
        assert decoder.cache.n_pages == 3
        decoder.restart(0)
        assert decoder.cache.n_pages == 0


@CASES
def test_what_a_decoder_cannot_take_is_refused(name: str) -> None:
    model = MODELS[name]
    with WorkerTeam(1) as workers:
        decoder = model.decoder(params_of(model), 2, workers)
        decoder.add(1)
        with pytest.raises(ValueError, match="made for 2"):
            decoder.add(2)
        with pytest.raises(ValueError, match="made for 2"):
            decoder.select([0, 0, 0])
        with pytest.raises(ValueError, match="parents"):
            decoder.select([1])
        with pytest.raises(ValueError, match="2 lists of tokens for 1"):
            decoder.append([np.array([1]), np.array([1])])
        with pytest.raises(ValueError, match="0 tokens"):
            decoder.append([np.array([], np.int32)])
        if name != "mlp":
            with pytest.raises(ValueError, match=f"room for {CONTEXT}"):
                decoder.append([np.zeros(CONTEXT + 1, np.int32)])


@CASES
def test_the_room_of_a_sequence_is_what_its_context_leaves(name: str) -> None:
    model = MODELS[name]
    with WorkerTeam(1) as workers:
        decoder = model.decoder(params_of(model), 2, workers)
    decoder.add(2)
    if name == "mlp":
        assert decoder.room(0) > 10**9
        return
    decoder.append([random_tokens(1, 5)[0], random_tokens(1, 1)[0]])
    assert (decoder.room(0), decoder.room(1)) == (CONTEXT - 5, CONTEXT - 1)


def tokens_of(name: str, prompt: Any, n: int, n_samples: int = 1, **options: Any) -> Any:
    """Generated ids, (n_samples, at most n); -1 where a sample had ended."""
    model = MODELS[name]
    sampling = options.pop("sampling", Sampling(seed=4))
    prompts = prompt if isinstance(prompt, list) else [prompt]
    with WorkerTeam(options.pop("n_workers", 1)) as workers, whole_team():
        steps = list(
            generate(
                *(model, params_of(model), workers, prompts, n, sampling, n_samples), **options
            )
        )
    return np.array([[-1 if t is None else t for t in step] for step in steps]).T


@CASES
def test_the_same_seed_gives_the_same_tokens_and_another_does_not(name: str) -> None:
    prompt = random_tokens(1, 3)[0]
    first, second = (tokens_of(name, prompt, 40) for _ in range(2))
    assert first.shape == (1, 40)
    assert np.array_equal(first, second)
    other = tokens_of(name, prompt, 40, sampling=Sampling(seed=5))
    assert not np.array_equal(first, other)


@CASES
def test_a_sample_does_not_depend_on_how_many_are_drawn(name: str) -> None:
    prompt = random_tokens(1, 3)[0]
    five = tokens_of(name, prompt, 30, 5)
    assert len({tuple(sample) for sample in five.tolist()}) == 5
    for n_samples in (1, 2, 4):
        assert np.array_equal(tokens_of(name, prompt, 30, n_samples), five[:n_samples])


@CASES
def test_a_text_does_not_depend_on_the_prompts_beside_it(name: str) -> None:
    """Nor on the workers; texts of other lengths fill their context at other times."""
    prompts = [random_tokens(1, n)[0] for n in (3, 1, 11, 3 * CONTEXT)]
    together = tokens_of(name, prompts, 30, 2, n_workers=2)
    for p, prompt in enumerate(prompts):
        assert np.array_equal(tokens_of(name, prompt, 30, 2), together[2 * p : 2 * p + 2])


@CASES
def test_past_the_context_the_later_half_goes_on(name: str) -> None:
    """Each token is the likeliest of a forward over what the decoder may know then."""
    model = MODELS[name]
    params, prompt = params_of(model), random_tokens(1, 5)[0]
    found = tokens_of(name, prompt, 3 * CONTEXT, sampling=Sampling(0.0))[0]
    history, start = list(prompt), 0
    for token in found:
        seen = history[-model.config.window :] if name == "mlp" else history[start:]
        logits = forward_logits(model, params, np.array([seen], np.int32), "float32")
        assert token == np.argmax(logits[0, -1])
        history.append(int(token))
        if name != "mlp" and len(history) - start > CONTEXT:
            start = len(history) - CONTEXT // 2


def test_a_prompt_beyond_the_context_is_cut_to_its_end() -> None:
    prompt = random_tokens(1, 3 * CONTEXT)[0]
    whole = tokens_of("gpt2", prompt, 10, sampling=Sampling(0.0))
    assert np.array_equal(whole, tokens_of("gpt2", prompt[-CONTEXT:], 10, sampling=Sampling(0.0)))


def test_a_sample_ends_after_a_stop_token_and_the_others_go_on() -> None:
    prompt = random_tokens(1, 3)[0]
    free = tokens_of("gpt2", prompt, 30, 3)
    stop = int(free[1][4])
    found = tokens_of("gpt2", prompt, 30, 3, stop={stop})
    for want, got in zip(free, found, strict=True):
        places = np.flatnonzero(want == stop)
        end = int(places[0]) + 1 if places.size else 30
        assert np.array_equal(got[:end], want[:end])
        assert np.all(got[end:] == -1)
    every = tokens_of("gpt2", prompt, 30, 3, stop=set(range(N_VOCAB)))
    assert every.shape == (3, 1)


def test_no_tokens_are_made_when_none_are_wanted() -> None:
    assert tokens_of("gpt2", random_tokens(1, 3)[0], 0).size == 0


class Scripted:
    """A model that writes given ids whatever it reads; each sample the same."""

    context = 8

    def __init__(self, ids: list[int], n_vocab: int) -> None:
        self.ids, self.n_vocab = ids, n_vocab

    def decoder(self, params: Any, capacity: int, workers: Any) -> Scripted:
        self._left = iter(self.ids)
        return self

    def add(self, n: int) -> None:
        pass

    def select(self, parents: Any) -> None:
        pass

    def room(self, sequence: int) -> int:
        return 10**6

    def append(self, tokens: Any) -> Any:
        logits = np.full((len(tokens), self.n_vocab), -np.inf)
        logits[:, next(self._left)] = 0.0
        return logits


def writer_of(tokenizer: Any, ids: list[int]) -> tuple[Writer, Scripted]:
    model = Scripted(ids, tokenizer.vocab_size)
    return Writer(model, None, None, tokenizer), model  # type: ignore[arg-type]


def test_only_whole_characters_are_streamed() -> None:
    tokenizer = ByteTokenizer(["<|endoftext|>"])
    text = "aé€😀z"
    ids = tokenizer.encode(text).tolist()
    writer, _ = writer_of(tokenizer, ids)
    pieces = [piece for (piece,) in writer.write(np.array([1]), len(ids), Sampling())]
    assert pieces == ["a", "", "é", "", "", "€", "", "", "", "😀", "z", ""]
    cut, _ = writer_of(tokenizer, ids[:9])
    assert "".join(piece for (piece,) in cut.write(np.array([1]), 9, Sampling())) == "aé€\ufffd"


def test_writing_ends_at_a_special_token_without_showing_it() -> None:
    tokenizer = ByteTokenizer(["<|user|>", "<|endoftext|>"])
    for special in tokenizer.special_tokens.values():
        writer, _ = writer_of(tokenizer, [97, special, 98])
        pieces = list(writer.write(np.array([1]), 3, Sampling(), 2))
        assert ["".join(sample) for sample in zip(*pieces, strict=True)] == ["a", "a"]


def test_an_empty_prompt_is_the_start_of_a_document() -> None:
    with_end = ByteTokenizer(["<|user|>", "<|endoftext|>"])
    writer, _ = writer_of(with_end, [])
    assert writer.encode_prompt("").tolist() == [with_end.special_tokens["<|endoftext|>"]]
    writer, _ = writer_of(CharTokenizer("\nab"), [])
    assert writer.encode_prompt("").tolist() == [0]
    assert writer.encode_prompt("ba").tolist() == [2, 1]
    writer, _ = writer_of(CharTokenizer("ab"), [])
    assert writer.encode_prompt("").tolist() == [0]
    with pytest.raises(DataError, match=r"U\+0063"):
        writer.encode_prompt("abc")
