"""Byte-level byte-pair encoding, trained on the user's text.

Sennrich, Haddow, Birch (2016), "Neural Machine Translation of Rare Words with Subword Units", over
bytes as in Radford et al. (2019), with GPT-2's rule for where words begin. The ``tokenizers``
library finds the merges; kernels of ours apply them, and give the ids that it would give. Neither
hears of special tokens, so none is found in a text. The library's alphabet of 256 printable
stand-ins for bytes stays inside this file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate, chain, islice
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field

from bptool.data.tokenizers.base import (
    MAX_VOCAB_SIZE,
    Ids,
    Tokenizer,
    TokenizerConfig,
    encodable,
)
from bptool.data.tokenizers.thinning import BYTES_PER_BYTE, BYTES_PER_WORD, thinning
from bptool.errors import DataError
from bptool.registry import tokenizers

if TYPE_CHECKING:
    from bptool.data.tokenizers.encoder import Encoder

MAX_PIECE_BYTES, MAX_VOCABULARY_BYTES = 1 << 16, 1 << 26
"""Of one token, and of all that merges make. A merge can double a piece, so that a file of a few
merges could ask for any amount of memory."""
_TRAINING_CHARACTERS = 1 << 16
_FED_CHARACTERS = 1 << 13
"""Of a text that the library learns from; to stop it is to wait for the 256 it takes at once."""
_LEARNT_BYTES = 1024
"""Of a word that is learnt from as a whole. Each merge moves all that stands behind it in its word,
so that learning from a longer word, such as a sequence of DNA, would take time that grows with the
square of its length."""
BYTES_PER_CHARACTER = BYTES_PER_WORD // 2 + BYTES_PER_BYTE
"""Of memory at most, where every word is new and has one character."""
_CUT = re.compile(
    r"(?<=\S)\n(?=\S)|(?<=\S)(?= \S)"
    r"|(?<=[。！？，、；：])(?=[\u4e00-\u9fff\u3041-\u3096\u30a1-\u30fa])"
)
"""Where words never reach across, by GPT-2's rule of where they begin.

Between two characters that are not white space, a single line end is a word of its own, and a
single space begins the word behind it. Punctuation and letters never share a word, but for the
apostrophe of a contraction.
"""


class BpeConfig(TokenizerConfig):
    """Settings of the byte-pair tokenizer."""

    vocab_size: int = Field(
        default=4096,
        ge=256,
        le=MAX_VOCAB_SIZE,
        description="tokens at most, special ones included; a small text may not reach it",
    )
    min_frequency: int = Field(
        default=2, ge=1, le=10**9, description="a pair is merged if it occurs at least this often"
    )
    memory: int = Field(
        default=512,
        ge=16,
        le=10**7,
        description="MB that learning may take beside the program itself; of a text that would "
        "need more, a part is learnt from",
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
    in_threads = True

    def __init__(
        self, merges: Sequence[tuple[int, int]], special_tokens: Iterable[str] = ()
    ) -> None:
        pieces = [bytes([i]) for i in range(256)]
        known = {piece: i for i, piece in enumerate(pieces)}
        self._made: list[int] = []
        total = 0
        for left, right in merges:
            if not (0 <= left < len(pieces) and 0 <= right < len(pieces)):
                raise ValueError(f"merge of {left} and {right} before both exist")
            size = len(pieces[left]) + len(pieces[right])
            total += size
            if size > MAX_PIECE_BYTES or total > MAX_VOCABULARY_BYTES:
                raise ValueError(
                    f"merge {len(self._made) + 1:,} makes a piece of {size:,} bytes, or "
                    f"{total:,} of all pieces; at most {MAX_PIECE_BYTES:,} and "
                    f"{MAX_VOCABULARY_BYTES:,} are read"
                )
            piece = pieces[left] + pieces[right]
            if piece not in known:
                known[piece] = len(pieces)
                pieces.append(piece)
            self._made.append(known[piece])
        super().__init__(pieces, list(special_tokens))
        self.merges = [(int(left), int(right)) for left, right in merges]

    @classmethod
    def train(cls, texts: Iterable[str], config: BpeConfig) -> Self:
        """Learn merges from ``texts``. The same texts give the same tokenizer.

        Where learning from all of them would take more than ``config.memory`` MB, every second,
        fourth, ... slice is learnt from; the tokenizer's ``note`` then says so.

        Args:
            texts: can be gone through twice.
            config: settings.
        """
        import tokenizers as hf

        special = list(config.special_tokens or [])
        if config.vocab_size < 256 + len(special):
            raise DataError(
                f"tokenizer vocab_size {config.vocab_size} has no room for 256 bytes and "
                f"{len(special)} special tokens; give at least {256 + len(special)}"
            )
        model = hf.Tokenizer(hf.models.BPE())
        words = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
        parts = hf.pre_tokenizers.Split(hf.Regex(f".{{{_LEARNT_BYTES}}}"), "isolated")
        model.pre_tokenizer = hf.pre_tokenizers.Sequence([words, parts])
        trainer = hf.trainers.BpeTrainer(
            vocab_size=config.vocab_size - len(special),
            min_frequency=config.min_frequency,
            initial_alphabet=_STAND_IN,
            special_tokens=[],
            max_token_length=MAX_PIECE_BYTES,
            show_progress=False,
        )
        every = 1
        if _reaches(texts, config.memory * 10**6 // BYTES_PER_CHARACTER):
            every = thinning(_all_slices(texts), config.memory * 10**6)
        kept = islice(_all_slices(texts), 0, None, every)
        fed = chain.from_iterable(slices_of(text, _FED_CHARACTERS) for text in kept)
        model.train_from_iterator(fed, trainer)
        found = json.loads(model.to_str())["model"]["merges"]
        ids = {character: byte for byte, character in enumerate(_STAND_IN)}
        merges, total = [], 0
        for pair in found:
            left, right = pair if isinstance(pair, list) else pair.split(" ")
            total += len(left) + len(right)
            if total > MAX_VOCABULARY_BYTES:  # of words of many thousand characters
                break
            merges.append((ids[left], ids[right]))
            ids.setdefault(left + right, len(ids))
        made = cls(merges, special)
        if every > 1:
            made.note = (
                f"the vocabulary was learnt from 1/{every} of the text, spread over it, to stay "
                f"within {config.memory} MB (data.tokenizer.memory)"
            )
        return made

    @cached_property
    def _encoder(self) -> Encoder:
        from bptool.data.tokenizers.encoder import Encoder

        return Encoder(self.merges, self._made)

    def encode(self, text: str) -> Ids:
        return self.encode_many([text])[0]

    def encode_many(self, texts: Sequence[str]) -> list[Ids]:
        return self._encoder.encode([encodable(text) for text in texts])

    @classmethod
    def cut(cls, text: str, near: int) -> int:
        """See the base class; :data:`_CUT` says where."""
        found = _CUT.search(text, near)
        return -1 if found is None else found.end()

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


def _all_slices(texts: Iterable[str]) -> Iterator[str]:
    return chain.from_iterable(map(slices_of, texts))


def _reaches(texts: Iterable[str], n_characters: int) -> bool:
    """Whether ``texts`` have so many characters; reads no further than that."""
    return any(total >= n_characters for total in accumulate(map(len, texts)))


def slices_of(text: str, n_characters: int = _TRAINING_CHARACTERS) -> Iterator[str]:
    """Parts of ``n_characters`` to twice as many, cut between words where there is such a place:
    their ids, joined, are then those of ``text``."""
    start = 0
    while start < len(text):
        most = start + 2 * n_characters
        found = _CUT.search(text, start + n_characters, most)
        end = min(most, len(text)) if found is None else found.end()
        yield text[start:end]
        start = end
