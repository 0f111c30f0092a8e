"""One token a byte of UTF-8: 256 of them, any text, nothing to learn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import numpy as np

from bptool.data.tokenizers.base import Ids, Tokenizer, TokenizerConfig, encodable
from bptool.registry import tokenizers


class ByteConfig(TokenizerConfig):
    """Settings of the byte tokenizer."""


@tokenizers.register("byte")
class ByteTokenizer(Tokenizer):
    """Id ``i`` is the byte ``i``; special tokens start at 256."""

    Config = ByteConfig

    def __init__(self, special_tokens: Iterable[str] = ()) -> None:
        super().__init__([bytes([i]) for i in range(256)], list(special_tokens))

    @classmethod
    def train(cls, texts: Iterable[str], config: ByteConfig) -> Self:
        """Reserve the special tokens; the texts are not looked at."""
        return cls(config.special_tokens or [])

    def encode(self, text: str) -> Ids:
        return np.frombuffer(encodable(text), np.uint8).astype(np.int32)

    def _state(self) -> dict[str, Any]:
        return {}

    @classmethod
    def _from_state(cls, state: dict[str, Any], special_tokens: list[str]) -> Self:
        return cls(special_tokens)
