"""Byte-level byte-pair encoding, trained on the user's text.

Sennrich, Haddow, Birch (2016), "Neural Machine Translation of Rare Words with Subword Units", over
bytes as in Radford et al. (2019), with GPT-2's rule for where words begin. The ``tokenizers``
library finds the merges and applies them; it never hears of special tokens, so it cannot find
one in a text. Its alphabet of 256 printable stand-ins for bytes stays inside this file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, Self

import numpy as np
from pydantic import Field

from bptool.data.tokenizers.base import (
    MAX_VOCAB_SIZE,
    Ids,
    Tokenizer,
    TokenizerConfig,
    check_encodable,
)
from bptool.errors import DataError
from bptool.registry import tokenizers

_TRAINING_CHARACTERS = 1 << 16


class BpeConfig(TokenizerConfig):
    """Settings of the byte-pair tokenizer."""

    vocab_size: int = Field(
        default=4096,
        ge=256,
        le=MAX_VOCAB_SIZE,
        description="tokens at most, special ones included; a small text may not reach it",
    )
    min_frequency: int = Field(
        default=2, ge=1, description="a pair is merged if it occurs at least this often"
    )


def _stand_ins() -> list[str]:
    """The printable character that byte-level BPE writes for each byte.

    Bytes that print in Latin-1 stand for themselves; the others are numbered from U+0100.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(b) if b in printable else chr(next(others)) for b in range(256)]


_STAND_IN = _stand_ins()


@tokenizers.register("bpe")
class BpeTokenizer(Tokenizer):
    """Ids 0 to 255 are the bytes; the following ones are made by merging two earlier tokens.

    Args:
        merges: pairs of ids in the order of merging. A pair whose bytes are new makes the next id;
            one that makes the bytes of an earlier token leads to that token.
        special_tokens: see the base class.
    """

    Config = BpeConfig

    def __init__(
        self, merges: Sequence[tuple[int, int]], special_tokens: Iterable[str] = ()
    ) -> None:
        pieces = [bytes([i]) for i in range(256)]
        known = set(pieces)
        for left, right in merges:
            if not (0 <= left < len(pieces) and 0 <= right < len(pieces)):
                raise ValueError(f"merge of {left} and {right} before both exist")
            piece = pieces[left] + pieces[right]
            if piece not in known:
                known.add(piece)
                pieces.append(piece)
        super().__init__(pieces, list(special_tokens))
        self.merges = [(int(left), int(right)) for left, right in merges]

    @classmethod
    def train(cls, texts: Iterable[str], config: BpeConfig) -> Self:
        """Learn merges from ``texts``. The same texts give the same tokenizer."""
        import tokenizers as hf

        special = list(config.special_tokens or [])
        if config.vocab_size < 256 + len(special):
            raise DataError(
                f"tokenizer vocab_size {config.vocab_size} has no room for 256 bytes and "
                f"{len(special)} special tokens; give at least {256 + len(special)}"
            )
        model = hf.Tokenizer(hf.models.BPE())
        model.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = hf.trainers.BpeTrainer(
            vocab_size=config.vocab_size - len(special),
            min_frequency=config.min_frequency,
            initial_alphabet=_STAND_IN,
            special_tokens=[],
            show_progress=False,
        )
        slices = chain.from_iterable(_slices(text) for text in texts)
        model.train_from_iterator(slices, trainer)
        found = json.loads(model.to_str())["model"]["merges"]
        ids = {character: byte for byte, character in enumerate(_STAND_IN)}
        merges = []
        for pair in found:
            left, right = pair if isinstance(pair, list) else pair.split(" ")
            merges.append((ids[left], ids[right]))
            ids.setdefault(left + right, len(ids))
        return cls(merges, special)

    @cached_property
    def _engine(self) -> Any:
        import tokenizers as hf

        spelled = ["".join(_STAND_IN[b] for b in piece) for piece in self._pieces]
        model = hf.models.BPE(
            vocab={s: i for i, s in enumerate(spelled)},
            merges=[(spelled[left], spelled[right]) for left, right in self.merges],
        )
        engine = hf.Tokenizer(model)
        engine.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
        return engine

    def encode(self, text: str) -> Ids:
        check_encodable(text)
        parts = [e.ids for e in self._engine.encode_batch_fast(list(_slices(text)))]
        return np.fromiter(chain.from_iterable(parts), np.int32, sum(map(len, parts)))

    def _cut(self, text: str, near: int) -> int:
        return _safe_cut(text, near)

    def _state(self) -> dict[str, Any]:
        return {"merges": [list(pair) for pair in self.merges]}

    @classmethod
    def _from_state(cls, state: dict[str, Any], special_tokens: list[str]) -> Self:
        merges = state["merges"]
        if not isinstance(merges, list) or len(merges) > MAX_VOCAB_SIZE:
            raise TypeError("merges is not a list of pairs")
        for pair in merges:
            if not (
                isinstance(pair, list) and len(pair) == 2 and all(type(i) is int for i in pair)
            ):
                raise TypeError(f"merge {pair!r} is not a pair of ids")
        return cls([(left, right) for left, right in merges], special_tokens)


def _safe_cut(text: str, near: int) -> int:
    """The first place from ``near`` on where words never reach across.

    GPT-2's rule gives a single line end between two characters that are not white space a word of
    its own, and no word that follows takes it in: cutting behind it changes nothing.
    """
    at = text.find("\n", max(near - 1, 1))
    while 0 <= at < len(text) - 1:
        if not text[at - 1].isspace() and not text[at + 1].isspace():
            return at + 1
        at = text.find("\n", at + 1)
    return len(text)


def _slices(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = _safe_cut(text, start + _TRAINING_CHARACTERS)
        yield text[start:end]
        start = end
