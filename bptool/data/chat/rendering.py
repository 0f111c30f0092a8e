"""How a run writes prompts and answers as tokens: by its chat template, or as plain text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bptool.data.chat.records import Message
from bptool.data.chat.templates import Template
from bptool.data.tokenizers import END_OF_TEXT, Tokenizer
from bptool.errors import DataError
from bptool.registry import templates

Ids = NDArray[np.int32]


class NoTemplate(DataError):
    """A conversation has several turns, and the run no way to write them."""


class Rendering:
    """Prompts and answers of one run.

    Without a template a prompt is a text, which an answer continues up to the end-of-text token, if
    the tokenizer has one. A conversation of several turns is refused: nothing would say who speaks.

    Args:
        template: the name of a chat template, or None. tokenizer: the run's.
    """

    def __init__(self, template: str | None, tokenizer: Tokenizer) -> None:
        self._template: Template | None = templates.get(template)() if template else None
        self.tokenizer = tokenizer

    @property
    def end_id(self) -> int | None:
        """Id of the token that ends an answer, where there is one."""
        if self._template is not None:
            return self._template.end_id(self.tokenizer)
        return self.tokenizer.special_tokens.get(END_OF_TEXT)

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids behind which nothing is generated: every special token."""
        return frozenset(self.tokenizer.special_tokens.values())

    def prompt(self, messages: Sequence[Message]) -> Ids:
        """Ids up to where the answer begins, (t,), t >= 1.

        Raises:
            DataError: a character is unknown to the tokenizer; NoTemplate: there are several turns.
        """
        if self._template is not None:
            return self._template.prompt(messages, self.tokenizer)
        if len(messages) != 1 or messages[0].role != "user":
            raise NoTemplate(
                f"has {len(messages)} turns, and a run without a chat template cannot tell who "
                "speaks; give it one with --template roles"
            )
        return self.tokenizer.encode(messages[0].content)

    def answer(self, text: str) -> Ids:
        """Ids of an answer, its end included."""
        ids = self.tokenizer.encode(text)
        return ids if self.end_id is None else np.append(ids, self.end_id).astype(np.int32)

    def text(self, ids: Sequence[int]) -> str:
        """The text of an answer, without its end."""
        return self.tokenizer.decode(ids, skip_special=True).strip()
