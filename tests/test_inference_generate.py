"""The incremental decoders against the whole forward, and text made token by token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bptool.data.tokenizers.byte import ByteTokenizer
from bptool.data.tokenizers.char import CharTokenizer
from bptool.errors import DataError
from bptool.inference.generate import generate
from bptool.inference.sampling import Sampling
from bptool.inference.writer import Writer
from bptool.models.gpt2 import GPT2, GPT2Config, gpt2_loss
from bptool.models.mlp import MLP, MLPConfig, mlp_loss
from bptool.ops.dropout import MaskKey
from bptool.training.machine import choose_engine

N_VOCAB, CONTEXT = 23, 12
GPT2_OPTIONS = {"n_layer": 2, "n_head": 2, "n_embd": 16, "context": CONTEXT, "dropout": 0.5}
MLP_OPTIONS = {"window": 4, "n_embd": 5, "n_hidden": 12, "n_layer": 2, "context": CONTEXT}
MODELS: dict[str, tuple[Any, Any]] = {
    "gpt2": (GPT2(GPT2Config(**GPT2_OPTIONS), N_VOCAB), gpt2_loss),
    "gpt2 without biases, untied": (
        GPT2(GPT2Config(**GPT2_OPTIONS, bias=False, tie_embeddings=False), N_VOCAB),
        gpt2_loss,
    ),
    "mlp": (MLP(MLPConfig(**MLP_OPTIONS, dropout=0.5), N_VOCAB), mlp_loss),
}
ENGINE = choose_engine("auto")
CASES = pytest.mark.parametrize("name", MODELS)


def params_of(model: Any, dtype: str = "float32") -> Any:
    """Weights far enough from zero that no two tokens look alike."""
    weights = model.layout.allocate(dtype)
    model.initialise(weights, 1)
    weights += 0.2 * np.random.default_rng(1).standard_normal(weights.size).astype(dtype)
    return model.params(weights)


def forward_logits(model: Any, loss: Any, params: Any, tokens: Any, dtype: str) -> Any:
    """Logits (B, T, V) of the training forward, without dropout."""
    n_batch, n_time = tokens.shape
    space = model.workspace(n_batch, n_time, dtype, ENGINE.make(dtype))
    key = MaskKey(0, 0, 0)
    loss(space.evaluating, params, space.acts, tokens, np.zeros_like(tokens), key, 1.0)
    return space.acts.logits.reshape(n_batch, n_time, -1).copy()


def random_tokens(n_batch: int, n_time: int) -> Any:
    return np.random.default_rng(2).integers(0, N_VOCAB, (n_batch, n_time)).astype(np.int32)


@CASES
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float64", 1e-11)])
def test_decoding_equals_the_forward(name: str, dtype: str, tolerance: float) -> None:
    model, loss = MODELS[name]
    params, tokens = params_of(model, dtype), random_tokens(3, CONTEXT)
    want = forward_logits(model, loss, params, tokens, dtype)
    for parts in ([CONTEXT], [1] * CONTEXT, [5, 1, 1, 4, 1]):
        decoder, start = model.decoder(params, 3, ENGINE.make(dtype)), 0
        for n_new in parts:
            logits = decoder.append(tokens[:, start : start + n_new])
            start += n_new
            assert logits.shape == (3, N_VOCAB)
            assert logits == pytest.approx(want[:, start - 1], abs=tolerance), (parts, start)
        decoder.reset()
        again = decoder.append(tokens[:, :5])
        assert again == pytest.approx(want[:, 4], abs=tolerance)


@CASES
def test_the_room_of_a_decoder_is_what_its_context_leaves(name: str) -> None:
    model, _ = MODELS[name]
    decoder = model.decoder(params_of(model), 1, ENGINE.make(np.float32))
    if name == "mlp":
        assert decoder.room > 10**9
        return
    assert decoder.room == CONTEXT
    decoder.append(random_tokens(1, 5))
    assert decoder.room == CONTEXT - 5


def tokens_of(name: str, prompt: Any, n: int, n_samples: int = 1, **options: Any) -> Any:
    """Generated ids, (n_samples, at most n); -1 where a sample had ended."""
    model, _ = MODELS[name]
    steps = generate(
        model,
        params_of(model),
        ENGINE.make(np.float32),
        prompt,
        n,
        options.pop("sampling", Sampling(seed=4)),
        n_samples,
        **options,
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
def test_past_the_context_the_later_half_goes_on(name: str) -> None:
    """Each token is the likeliest of a forward over what the decoder may know then."""
    model, loss = MODELS[name]
    params, prompt = params_of(model), random_tokens(1, 5)[0]
    found = tokens_of(name, prompt, 3 * CONTEXT, sampling=Sampling(0.0))[0]
    history, start = list(prompt), 0
    for token in found:
        seen = history[-model.config.window :] if name == "mlp" else history[start:]
        logits = forward_logits(model, loss, params, np.array([seen], np.int32), "float32")
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
        self.ids, self.n_vocab, self.room = ids, n_vocab, 10**6
        self.read: list[Any] = []

    def decoder(self, params: Any, n_sequences: int, engine: Any) -> Scripted:
        self._left = iter(self.ids)
        return self

    def append(self, tokens: Any) -> Any:
        self.read.append(tokens.tolist())
        logits = np.full((len(tokens), self.n_vocab), -np.inf)
        logits[:, next(self._left)] = 0.0
        return logits


def writer_of(tokenizer: Any, ids: list[int]) -> tuple[Writer, Scripted]:
    model = Scripted(ids, tokenizer.vocab_size)
    return Writer(model, None, ENGINE, tokenizer), model  # type: ignore[arg-type]


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
