"""Text in, text out: the tokenizer around :func:`bptool.inference.generate.generate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from bptool.data.tokenizers import END_OF_TEXT
from bptool.errors import DataError
from bptool.inference.generate import generate
from bptool.inference.sampling import Sampling
from bptool.inference.stop_strings import StopStrings
from bptool.models.base import Array, Model
from bptool.models.decoder import Workers


class TextCodec(Protocol):
    """The parts of a tokenizer that writing needs."""

    @property
    def special_tokens(self) -> dict[str, int]: ...
    def encode(self, text: str) -> Array: ...
    def stream(self, skip_special: bool = False) -> Any: ...


class Writer:
    """Writes text with one model.

    Args:
        model: the model. params: its weights. workers: a team. tokenizer: its own.
    """

    def __init__(self, model: Model, params: Any, workers: Workers, tokenizer: TextCodec) -> None:
        self._model, self._params, self._tokenizer = model, params, tokenizer
        self._workers = workers
        self._stop = set(tokenizer.special_tokens.values())

    def encode_prompt(self, text: str) -> Array:
        """Ids (t,) of a prompt, t >= 1. An empty one is the start of a document: the end-of-text
        token where the tokenizer has one, else a line end, else the first token there is.

        Raises:
            DataError: the prompt has characters unknown to the tokenizer.
        """
        if text:
            return self._tokenizer.encode(text)
        end = self._tokenizer.special_tokens.get(END_OF_TEXT)
        if end is not None:
            return np.array([end], np.int32)
        try:
            return self._tokenizer.encode("\n")
        except DataError:
            return np.zeros(1, np.int32)

    def write(
        self,
        prompt: Array,
        max_tokens: int,
        sampling: Sampling,
        n_samples: int = 1,
        stop: Sequence[str] = (),
    ) -> Iterator[list[str]]:
        """Yield pieces of text, one per sample, whole characters only; a text ends at a special
        token, or before a string of ``stop``."""
        cuts = [StopStrings(stop) for _ in range(n_samples)]
        streams = [self._tokenizer.stream(skip_special=True) for _ in range(n_samples)]
        steps = generate(
            *(self._model, self._params, self._workers, [prompt], max_tokens),
            *(sampling, n_samples, self._stop),
        )
        for tokens in steps:
            yield [
                "" if token is None else cut.push(stream.push(token))
                for cut, stream, token in zip(cuts, streams, tokens, strict=True)
            ]
            if all(cut.ended for cut in cuts):
                return
        ends = zip(cuts, streams, strict=True)
        yield [cut.push(stream.finish()) + cut.finish() for cut, stream in ends]
