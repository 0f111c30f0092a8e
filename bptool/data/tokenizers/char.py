"""One token a character: the sorted set of the characters of the text, as in nanoGPT's
``shakespeare_char``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
from pydantic import Field

from bptool.data.tokenizers.base import (
    MAX_VOCAB_SIZE,
    Ids,
    Place,
    Tokenizer,
    TokenizerConfig,
    UnknownCharacters,
    describe_character,
    encodable,
    shown_character,
)
from bptool.registry import tokenizers

MOST_NAMED = 10
"""Unknown characters beside the first that an error names."""


class CharConfig(TokenizerConfig):
    """Settings of the character tokenizer."""

    unknown: str = Field(
        default="error",
        min_length=1,
        description="what becomes of a character that the text did not have: error, a character "
        "that stands for it, or a longer name such as <|unknown|> for a special token",
    )


@tokenizers.register("char")
class CharTokenizer(Tokenizer):
    """Characters to ids in the order of their code points.

    Args:
        characters: the alphabet; each character once.
        special_tokens: see the base class.
        unknown: ``error``, a character of the alphabet, or a special token.
    """

    Config = CharConfig
    learns_from = "characters"

    def __init__(
        self, characters: str, special_tokens: Iterable[str] = (), unknown: str = "error"
    ) -> None:
        if len(set(characters)) != len(characters):
            raise ValueError("a character stands twice in the alphabet")
        super().__init__([c.encode("utf-8") for c in characters], list(special_tokens))
        self.characters = characters
        self.unknown = unknown
        self._unknown_id = -1
        if unknown != "error":
            known = self.special_tokens if len(unknown) > 1 else characters
            if unknown not in known:
                raise ValueError(f"the token for unknown characters, {unknown!r}, is not known")
            self._unknown_id = (
                self.special_tokens[unknown] if len(unknown) > 1 else characters.index(unknown)
            )
        codes = np.frombuffer(characters.encode("utf-32-le"), np.uint32)
        # One entry past the last code point, for everything beyond it.
        self._table = np.full(int(codes.max(initial=0)) + 2, self._unknown_id, np.int32)
        self._table[codes] = np.arange(len(codes), dtype=np.int32)

    @classmethod
    def train(cls, texts: Iterable[str], config: CharConfig) -> Self:
        """Collect the alphabet of ``texts``."""
        alphabet: set[str] = set()
        for text in texts:
            alphabet.update(text)
        special = list(config.special_tokens or [])
        if len(config.unknown) == 1:
            alphabet.add(config.unknown)
        elif config.unknown != "error" and config.unknown not in special:
            special.append(config.unknown)
        return cls("".join(sorted(alphabet)), special, config.unknown)

    def encode(self, text: str) -> Ids:
        return self._encoded(text, None)

    def check(self, text: str, start: Place | None = None) -> None:
        self._encoded(text, start)

    def _encoded(self, text: str, start: Place | None) -> Ids:
        ids = self._look_up(text)
        if self._unknown_id < 0 and (missing := np.flatnonzero(ids < 0)).size:
            first, *others = dict.fromkeys(text[i] for i in missing.tolist())
            described = describe_character(text, int(missing[0]), start)
            also = ", ".join(map(shown_character, others[:MOST_NAMED]))
            if len(others) > MOST_NAMED:
                also += f" and {len(others) - MOST_NAMED:,} more"
            raise UnknownCharacters(
                f"the tokenizer has no token for {described}{also and ', nor for ' + also}; "
                "remove it, or train with the tokenizer option unknown set to a character",
                "".join([first, *others]),
            )
        return ids

    def _look_up(self, text: str) -> Ids:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        ids: Ids = self._table[np.minimum(codes, len(self._table) - 1)]
        return ids

    def _state(self) -> dict[str, Any]:
        return {"characters": self.characters, "unknown": self.unknown}

    @classmethod
    def _from_state(cls, state: dict[str, Any], special_tokens: list[str]) -> Self:
        characters, unknown = state["characters"], state["unknown"]
        if not isinstance(characters, str) or not isinstance(unknown, str):
            raise TypeError("characters and unknown are not both strings")
        if not 0 < len(characters) <= MAX_VOCAB_SIZE:
            raise ValueError(f"{len(characters)} characters")
        encodable(characters)
        return cls(characters, special_tokens, unknown)
