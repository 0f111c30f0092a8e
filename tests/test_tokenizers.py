"""Tokenizers: exact round trips, special tokens that text cannot forge, and damaged files."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers as hf
from hypothesis import given
from hypothesis import strategies as st

from bptool.data.tokenizers import load_tokenizer, tokenizer_from_json
from bptool.data.tokenizers.base import END_OF_TEXT, Tokenizer
from bptool.data.tokenizers.bpe import _STAND_IN, BpeConfig, BpeTokenizer, slices_of
from bptool.data.tokenizers.byte import ByteConfig, ByteTokenizer
from bptool.data.tokenizers.char import CharConfig, CharTokenizer
from bptool.errors import ConfigError, DataError
from bptool.ops.encode import KEPT_BYTES, KEPT_IDS, SHORT, make_memory
from bptool.registry import tokenizers

SPECIAL = [END_OF_TEXT, "<|user|>", "<|assistant|>"]
STORY = (
    "Once upon a time the café by the river was empty.\n\nThe fox asked: 'Who goes there?'\n"
    "Nobody answered, so the fox asked again \u2014 and again, and again.\n" * 20
)
odd_characters = st.sampled_from("ab \n\t.'。，好\u00a0\u2028\u3000\x1c\x85\r1é")
any_text = st.text(st.characters(exclude_categories=["Cs"]))
story_text = st.text(st.sampled_from(sorted(set(STORY))))


def make(name: str, text: str = STORY, **settings: Any) -> Tokenizer:
    kind = tokenizers.get(name)
    if name == "bpe":
        settings.setdefault("vocab_size", 320)
    tokenizer: Tokenizer = kind.train([text], kind.Config(**settings))
    return tokenizer


MADE = {name: make(name, special_tokens=SPECIAL) for name in ("char", "byte", "bpe")}


def library_of(tokenizer: Tokenizer) -> hf.Tokenizer:
    """The ``tokenizers`` library with the merges of a tokenizer of ours."""
    assert isinstance(tokenizer, BpeTokenizer)
    names = ["".join(_STAND_IN[byte] for byte in piece) for piece in tokenizer._pieces]
    merges = [(names[left], names[right]) for left, right in tokenizer.merges]
    made = hf.Tokenizer(hf.models.BPE({name: i for i, name in enumerate(names)}, merges))
    made.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return made


LIBRARY = library_of(MADE["bpe"])
each = pytest.mark.parametrize("tokenizer", MADE.values(), ids=MADE.keys())


def test_our_tokenizers_are_registered() -> None:
    assert {"bpe", "byte", "char"} <= set(tokenizers.names())


@pytest.mark.parametrize("name", ["byte", "bpe"])
@given(text=any_text)
def test_round_trip_over_all_of_unicode(name: str, text: str) -> None:
    tokenizer = MADE[name]
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert tokenizer.decode(ids) == text
    assert tokenizer.n_bytes(ids) == len(text.encode("utf-8"))
    assert not set(ids.tolist()) & set(tokenizer.special_tokens.values())


@given(text=story_text)
def test_round_trip_over_the_alphabet(text: str) -> None:
    tokenizer = MADE["char"]
    ids = tokenizer.encode(text)
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.n_bytes(ids) == len(text.encode("utf-8"))


@each
def test_text_that_spells_a_special_token_is_plain_text(tokenizer: Tokenizer) -> None:
    kind = type(tokenizer)
    forged = "say <|endoftext|> <|user|> <|assistant|>"
    trained = kind.train([STORY + forged * 50], kind.Config(special_tokens=SPECIAL))
    ids = trained.encode(forged)
    assert max(ids) < trained.vocab_size - len(SPECIAL)
    assert trained.decode(ids) == forged


@each
def test_special_tokens_follow_the_ordinary_ones(tokenizer: Tokenizer) -> None:
    first = tokenizer.vocab_size - len(SPECIAL)
    assert tokenizer.special_tokens == {s: first + i for i, s in enumerate(SPECIAL)}
    ids = [*tokenizer.encode("fox"), first, *tokenizer.encode("river")]
    assert tokenizer.decode(ids) == "fox<|endoftext|>river"
    assert tokenizer.decode(ids, skip_special=True) == "foxriver"
    assert tokenizer.n_bytes(ids) == 8
    assert tokenizer.token_bytes()[first:].tolist() == [0, 0, 0]


@each
def test_json_round_trip(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert type(loaded) is type(tokenizer)
    assert loaded.to_json() == tokenizer.to_json() == json.loads(json.dumps(tokenizer.to_json()))
    assert loaded.special_tokens == tokenizer.special_tokens
    np.testing.assert_array_equal(loaded.encode(STORY), tokenizer.encode(STORY))
    np.testing.assert_array_equal(loaded.token_bytes(), tokenizer.token_bytes())


@each
def test_ids_outside_the_vocabulary_are_refused(tokenizer: Tokenizer) -> None:
    for token_id in (-1, tokenizer.vocab_size):
        with pytest.raises(DataError, match=f"{token_id} is outside 0 to"):
            tokenizer.decode([token_id])


@each
def test_half_a_surrogate_pair_is_one_clear_line(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match=r"U\+D800\) at character 3 \(line 1, column 3\)"):
        tokenizer.encode("fo\ud800x")


def test_a_lone_surrogate_can_be_mapped_like_any_unknown_character() -> None:
    tokenizer = CharTokenizer.train(["abc?"], CharConfig(unknown="?"))
    assert tokenizer.decode(tokenizer.encode("a\ud800")) == "a?"


def test_characters_are_the_sorted_set() -> None:
    tokenizer = make("char", "hello\n")
    assert tokenizer.to_json()["characters"] == "\nehlo"
    assert tokenizer.encode("hello").tolist() == [2, 1, 3, 3, 4]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("abc\nabé", r"'é' \(U\+00E9\) at character 7 \(line 2, column 3\)"),
        ("\t", r"'\\t' \(U\+0009\) at character 1 \(line 1, column 1\)"),
        ("ab\U0001f600", r"U\+1F600\) at character 3 "),
    ],
)
def test_an_unknown_character_is_named_with_its_place(text: str, expected: str) -> None:
    tokenizer = make("char", "abc\n")
    for refuse in (tokenizer.encode, tokenizer.check):
        with pytest.raises(DataError, match=expected) as caught:
            refuse(text)
        assert "unknown" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("unknown", "shown"), [("?", "a?b"), ("a", "aab"), ("<|unknown|>", "a<|unknown|>b")]
)
def test_unknown_characters_can_be_mapped(unknown: str, shown: str) -> None:
    tokenizer = make("char", "ab", unknown=unknown)
    assert tokenizer.decode(tokenizer.encode("aéb")) == shown
    again = tokenizer_from_json(tokenizer.to_json())
    assert again.decode(again.encode("aéb")) == shown


def test_the_unknown_token_is_listed_once() -> None:
    tokenizer = make("char", "ab", unknown="<|u|>", special_tokens=["<|u|>", "<|v|>"])
    assert tokenizer.special_tokens == {"<|u|>": 2, "<|v|>": 3}


def test_bytes_are_their_own_ids() -> None:
    assert make("byte").encode("é\0").tolist() == [0xC3, 0xA9, 0]
    assert make("byte").vocab_size == 256


def test_bpe_reaches_its_vocabulary_and_shortens_text() -> None:
    tokenizer = make("bpe", vocab_size=300, special_tokens=SPECIAL)
    assert tokenizer.vocab_size == 300
    assert len(tokenizer.encode(STORY)) < len(STORY) / 2


def test_bpe_of_a_text_too_small_for_its_vocabulary() -> None:
    tokenizer = make("bpe", "ab", vocab_size=5000)
    assert tokenizer.vocab_size == 256
    assert tokenizer.decode(tokenizer.encode("other text")) == "other text"


def test_bpe_min_frequency_limits_merges() -> None:
    assert make("bpe", "ab cd ab", min_frequency=2).vocab_size == 257
    assert make("bpe", "ab cd ab", min_frequency=3).vocab_size == 256


def test_bpe_training_is_deterministic_across_processes() -> None:
    program = (
        "import sys; from bptool.data.tokenizers.bpe import *;"
        "t = BpeTokenizer.train([sys.argv[1]], BpeConfig(vocab_size=500, min_frequency=1));"
        "print(t.merges)"
    )
    text = STORY + "".join(f" w{i}x{i * i} " for i in range(200))
    here = BpeTokenizer.train([text], BpeConfig(vocab_size=500, min_frequency=1))
    for _ in range(2):
        there = subprocess.run(
            [sys.executable, "-c", program, text], capture_output=True, text=True, check=True
        )
        assert there.stdout.strip() == str(here.merges)


def learnt_by_the_library(text: str, **settings: Any) -> list[tuple[str, str]]:
    model = hf.Tokenizer(hf.models.BPE())
    model.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = hf.trainers.BpeTrainer(initial_alphabet=_STAND_IN, show_progress=False, **settings)
    model.train_from_iterator([text], trainer)
    return [tuple(pair) for pair in json.loads(model.to_str())["model"]["merges"]]


@pytest.mark.parametrize("n", [4, 40, 1024])
def test_bpe_learns_of_ordinary_texts_what_the_library_learns(n: int) -> None:
    draw = random.Random(n)
    words = [draw.choices("abcdefé", k=draw.randint(1, n // 2)) for _ in range(100)]
    text = STORY + " ".join("".join(words[int(100 * draw.random() ** 3)]) for _ in range(3000))
    if n == 1024:  # the longest word that is learnt from as a whole
        text += " " + "xy" * 511 + "\n" + "=" * 1024 + 1024 * "\n"
    settings = {"vocab_size": 600, "min_frequency": 2}
    made = BpeTokenizer.train([text], BpeConfig(**settings))
    names = ["".join(_STAND_IN[byte] for byte in piece) for piece in made._pieces]
    merges = [(names[left], names[right]) for left, right in made.merges]
    assert merges == learnt_by_the_library(text, **settings)


@pytest.mark.parametrize("alphabet", ["acgt", "=", " ", "\n", "的是不了"], ids=ascii)
def test_bpe_of_one_long_word_takes_time_in_proportion_to_its_length(alphabet: str) -> None:
    draw = random.Random(3)
    text = "".join(draw.choices(alphabet, k=400_000))
    seconds = []
    for n in (1000, 50_000, 400_000):  # the first loads what it needs
        began = time.process_time()
        made = BpeTokenizer.train([text[:n]], BpeConfig(vocab_size=1000))
        seconds.append(time.process_time() - began)
        ids = made.encode(text[:n])
        assert made.decode(ids) == text[:n]
        assert ids.tolist() == library_of(made).encode(text[:n]).ids or n > 100_000
    assert seconds[2] < 24 * max(seconds[1], 0.02), "8 in proportion, 64 by the square"


def test_parts_of_a_text_to_learn_from_are_bounded() -> None:
    word, text = "acgt" * 50_000, "one two three " * 20_000
    assert max(map(len, slices_of(word, 1000))) == 2000
    assert max(map(len, slices_of(text, 1000))) < 1010
    assert "".join(slices_of(word + text, 1000)) == word + text


def test_bpe_refuses_a_vocabulary_without_room_for_its_special_tokens() -> None:
    with pytest.raises(DataError, match="at least 259"):
        make("bpe", vocab_size=258, special_tokens=SPECIAL)


def test_bpe_merges_that_make_the_same_bytes_share_an_id() -> None:
    a, b, c = b"abc"
    tokenizer = BpeTokenizer([(a, b), (b, c), (a, 257), (256, c)])
    assert tokenizer.vocab_size == 259
    assert tokenizer.encode("abc").tolist() == library_of(tokenizer).encode("abc").ids
    assert tokenizer_from_json(tokenizer.to_json()).vocab_size == 259


@given(st.text(odd_characters, max_size=300))
def test_bpe_cuts_change_nothing(text: str) -> None:
    start, parts = 0, []
    while start < len(text):
        end = BpeTokenizer.cut(text, start + 1)
        end = len(text) if end < 0 else end
        assert end > start
        parts.append(text[start:end])
        start = end
    ids = [i for part in parts for i in LIBRARY.encode(part).ids]
    assert ids == LIBRARY.encode(text).ids


@given(any_text | st.text(odd_characters, max_size=300))
def test_bpe_gives_the_ids_of_the_library(text: str) -> None:
    assert MADE["bpe"].encode(text).tolist() == LIBRARY.encode(text).ids


@given(st.lists(any_text | st.text(odd_characters, max_size=80), max_size=8))
def test_bpe_encodes_many_texts_as_each_alone(texts: list[str]) -> None:
    found = MADE["bpe"].encode_many(texts)
    assert [ids.tolist() for ids in found] == [LIBRARY.encode(text).ids for text in texts]


@pytest.mark.parametrize("n", [KEPT_BYTES, KEPT_BYTES + 1, SHORT, SHORT + 1, 20_000])
def test_bpe_encodes_words_of_any_length_as_the_library_does(n: int) -> None:
    draw = np.random.default_rng(n)
    letters = sorted(set(STORY) - set(" \n\u2014.,:?'"))
    assert "é" in letters
    for _ in range(3):
        word = "".join(draw.choice(letters, n))
        repeated = ("again" * n)[:n]
        text = f"{repeated} {word} {word[:-1]} {repeated}\0 {repeated}"
        assert MADE["bpe"].encode(text).tolist() == LIBRARY.encode(text).ids


def test_bpe_keeps_few_of_many_words_and_still_gives_their_ids() -> None:
    made = make("bpe")
    assert isinstance(made, BpeTokenizer)
    n = 2 * len(make_memory()[0])
    letters = str.maketrans("0123456789", "abcdefghij")
    text = " ".join(str(i * 7919 % n).translate(letters) for i in range(n))
    text += text[::-1] + text
    expected = library_of(made).encode_batch_fast(list(slices_of(text)))
    assert made.encode(text).tolist() == [i for part in expected for i in part.ids]
    (memory,) = made._encoder._unused
    assert sum(array.nbytes for array in memory) == sum(a.nbytes for a in make_memory())
    assert np.count_nonzero(memory[1][:, 0]) > n // 4  # so that many were taken from another


def test_bpe_encodes_in_threads_with_a_memory_for_each() -> None:
    made = make("bpe")
    assert isinstance(made, BpeTokenizer)
    texts = [STORY[i:] for i in range(0, 400, 5)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(made.encode, texts))
    library = library_of(made)
    assert [ids.tolist() for ids in found] == [library.encode(text).ids for text in texts]
    assert 1 <= len(made._encoder._unused) <= 3


@given(
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=60),
    st.lists(st.text("ab '1.é\n", max_size=60), min_size=1, max_size=8),
)
def test_bpe_merges_as_the_library_does(draws: list[tuple[int, int]], texts: list[str]) -> None:
    tokens = sorted("ab '1.é\n".encode())
    merges: list[tuple[int, int]] = []
    for left, right in draws:
        merges.append((tokens[left % len(tokens)], tokens[right % len(tokens)]))
        tokens = [*tokens[:9], *range(256, BpeTokenizer(merges).vocab_size)]
    tokenizer = BpeTokenizer(merges)
    found = tokenizer.encode_many(texts)
    library = library_of(tokenizer)
    assert [ids.tolist() for ids in found] == [library.encode(text).ids for text in texts]


def test_bpe_forgets_the_rank_of_a_pair_that_is_no_more() -> None:
    x, y, z, w = b"xyzw"
    tokenizer = BpeTokenizer([(y, z), (x, y), (256, w), (x, 256)])
    assert tokenizer.encode("xyzw").tolist() == [x, 258]
    assert library_of(tokenizer).encode("xyzw").ids == [x, 258]


def test_bpe_takes_no_contraction_for_another() -> None:
    every = [*b"'stmdlrevxST ", *range(256, 256 + 13**2)]
    pairs = [(a, b) for a in every[:13] for b in every[:13]]
    tokenizer = BpeTokenizer([*pairs, *((a, b) for a in every[13:] for b in every[:13])])
    library = library_of(tokenizer)
    for rest in map("".join, product("'stmdlrevxST ", repeat=3)):
        for text in (f"x'{rest}", f"'{rest[:1]}"):
            assert tokenizer.encode(text).tolist() == library.encode(text).ids, text


@pytest.mark.parametrize("place", range(4, KEPT_BYTES, 8))
def test_bpe_takes_no_word_for_another(place: int) -> None:
    a = ord("a")
    tokenizer = BpeTokenizer([(a, a), (256, 256), (257, 257), (258, 258)])
    draw = np.random.default_rng(place)
    words = []
    for letters in draw.integers(ord("b"), ord("z"), (3000, 4), endpoint=True):
        words.append("a" * place + "".join(map(chr, letters)) + "a" * (KEPT_BYTES - place - 4))
    assert all(len(ids) <= KEPT_IDS for ids in tokenizer.encode_many(words))
    words = [word[:n] for word in words for n in (KEPT_BYTES, KEPT_BYTES - 4)]
    expected = [one.ids for one in library_of(tokenizer).encode_batch(words)]
    assert [ids.tolist() for ids in tokenizer.encode_many(words)] == expected


def test_bpe_knows_characters_as_the_library_does() -> None:
    first, later = range(0xC2, 0xF5), range(0x80, 0xC0)
    pairs = [(ord(before), byte) for before in "a !" for byte in first]
    tokenizer = BpeTokenizer([*pairs, *((byte, ord("1")) for byte in later)])
    han_and_hangul = {*range(0x3400, 0x9F00), *range(0xAC00, 0xD700)}
    codes = sorted({*range(0xD800), *range(0xF900, 0x20000, 7)} - han_and_hangul)
    text = "".join(f"a{chr(code)} {chr(code)}1!{chr(code)}" for code in codes)
    assert tokenizer.encode(text).tolist() == library_of(tokenizer).encode(text).ids


def test_long_texts_are_encoded_in_slices_that_join_to_the_whole() -> None:
    text = STORY * 600
    for tokenizer in MADE.values():
        pieces = list(tokenizer.pieces([text[:70], text[70:], ""]))
        assert len(pieces) > 1
        assert "".join(pieces) == text
        assert pieces == list(tokenizer.pieces([text]))
        np.testing.assert_array_equal(
            np.concatenate(tokenizer.encode_many(pieces)), tokenizer.encode(text)
        )
    assert len(list(slices_of(text))) > 1


@pytest.mark.parametrize("name", ["byte", "bpe"])
@given(text=any_text)
def test_streaming_gives_whole_characters_only(name: str, text: str) -> None:
    tokenizer = MADE[name]
    stream = tokenizer.stream()
    parts = [stream.push(i) for i in tokenizer.encode(text)]
    assert all("\ufffd" not in part for part in parts) or "\ufffd" in text
    assert "".join(parts) + stream.finish() == text
    assert stream.finish() == ""


def test_streaming_replaces_a_character_that_is_never_finished() -> None:
    tokenizer = ByteTokenizer([END_OF_TEXT])
    stream = tokenizer.stream()
    assert [stream.push(i) for i in (0xE2, 0x82, 0xAC)] == ["", "", "€"]
    assert stream.push(0xE2) == ""
    assert stream.push(256) == "\ufffd<|endoftext|>"
    assert stream.push(0xC3) + stream.finish() == "\ufffd"
    assert tokenizer.stream(skip_special=True).push(256) == ""


@given(st.lists(st.integers(0, 256)))
def test_any_ids_decode(ids: list[int]) -> None:
    tokenizer = ByteTokenizer([END_OF_TEXT])
    expected = bytes(i for i in ids if i < 256).decode("utf-8", "replace")
    if 256 not in ids:
        assert tokenizer.decode(ids) == expected
    stream = tokenizer.stream()
    assert "".join(map(stream.push, ids)) + stream.finish() == tokenizer.decode(ids)


@pytest.mark.parametrize("special", [["a", "a"], [""]])
def test_special_tokens_are_distinct_and_not_empty(special: list[str]) -> None:
    with pytest.raises(ValueError, match="special token"):
        ByteConfig(special_tokens=special)
    with pytest.raises(ValueError, match="special token"):
        ByteTokenizer(special)


DAMAGE: list[tuple[Any, str]] = [
    ([], "no 'tokenizer' key"),
    ({}, "no 'tokenizer' key"),
    ({"tokenizer": "chars"}, "did you mean 'char'"),
    ({"tokenizer": "char", "format_version": 99}, "format_version is 99"),
    ({"characters": 5}, "not both strings"),
    ({"characters": ""}, "0 characters"),
    ({"characters": "aa"}, "twice in the alphabet"),
    ({"characters": "a\ud800"}, "surrogate"),
    ({"characters": None}, "not both strings"),
    ({"unknown": "z"}, "'z', is not known"),
    ({"special_tokens": "abc"}, "not a list of strings"),
    ({"special_tokens": ["a", "a"]}, "listed twice"),
    ({"tokenizer": "bpe"}, "'merges' is missing"),
    ({"tokenizer": "bpe", "merges": 3}, "not a list of pairs"),
    ({"tokenizer": "bpe", "merges": [[1, 2, 3]]}, "not a pair"),
    ({"tokenizer": "bpe", "merges": [[1, True]]}, "not a pair"),
    ({"tokenizer": "bpe", "merges": [[1, 999]]}, "before both exist"),
    ({"tokenizer": "bpe", "merges": [[-1, 0]]}, "before both exist"),
]


@pytest.mark.parametrize(("change", "expected"), DAMAGE)
def test_a_damaged_file_is_one_clear_line(change: Any, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    value = {**make("char", "ab").to_json(), **change} if change else change
    path.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(DataError, match=expected) as caught:
        load_tokenizer(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"tokenizer": 1}', b"null", b"1e999"]
)
def test_a_file_that_is_no_tokenizer(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"tokenizer\.json: not"):
        load_tokenizer(path)


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        load_tokenizer(tmp_path / "tokenizer.json")


@given(cut=st.integers(0, 400))
def test_a_truncated_file_never_loads(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "truncated.json"
    data = json.dumps(MADE["bpe"].to_json()).encode()
    path.write_bytes(data[:cut])
    with pytest.raises(DataError):
        load_tokenizer(path)


def test_an_unknown_kind_is_a_config_error_by_itself() -> None:
    with pytest.raises(ConfigError, match="unknown tokenizer"):
        tokenizer_from_json({"tokenizer": "words"})


def test_normal_forms_are_left_apart() -> None:
    composed, decomposed = "é", unicodedata.normalize("NFD", "é")
    for name in ("byte", "bpe"):
        assert MADE[name].encode(composed).tolist() != MADE[name].encode(decomposed).tolist()
