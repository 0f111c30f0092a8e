"""Tokenizers: text to token ids and back. Importing this package registers our own."""

from __future__ import annotations

from bptool.data.tokenizers import bpe, byte, char
from bptool.data.tokenizers.base import (
    END_OF_TEXT,
    TextStream,
    Tokenizer,
    TokenizerConfig,
    load_tokenizer,
    tokenizer_from_json,
)

__all__ = [
    "END_OF_TEXT",
    "TextStream",
    "Tokenizer",
    "TokenizerConfig",
    "bpe",
    "byte",
    "char",
    "load_tokenizer",
    "tokenizer_from_json",
]
