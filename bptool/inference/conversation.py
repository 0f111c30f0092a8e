"""A conversation with a model: its history, what of it fits into the context, the next answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bptool.data.chat.records import Message
from bptool.errors import DataError
from bptool.inference.answers import Answerer, stream_answer
from bptool.inference.sampling import Sampling
from bptool.models.base import Array

LEAST_ROOM = 16
"""Tokens that an answer has at least, unless fewer are asked for."""


@dataclass(frozen=True)
class Fitted:
    """What the model is given.

    Attributes:
        ids: of the conversation up to where it answers. n_dropped: messages left out before them.
    """

    ids: Array
    n_dropped: int


class Conversation:
    """Turns of a user and a model, the system's message before them.

    Attributes:
        messages: the turns so far, without the system's. system: what it says; empty for nothing.
        stop: strings before which an answer ends.
    """

    def __init__(self, answerer: Answerer, system: str = "", stop: Sequence[str] = ()) -> None:
        assert answerer.template is not None
        self.answerer, self.system, self.stop = answerer, system, stop
        self.messages: list[Message] = []

    def fitted(self, max_tokens: int) -> Fitted:
        """The conversation with room for an answer, the oldest turns dropped as need be.

        Raises:
            DataError: not even the last message fits.
        """
        template, tokenizer = self.answerer.template, self.answerer.tokenizer
        assert template is not None
        context = self.answerer.model.context
        room = min(max_tokens, LEAST_ROOM)
        head = [Message("system", self.system)] if self.system else []
        for first in range(0, len(self.messages), 2):
            ids = template.prompt([*head, *self.messages[first:]], tokenizer)
            if len(ids) + room <= context:
                return Fitted(ids, first)
        raise DataError(
            f"that is {len(ids):,} tokens; the model's context is {context:,}, of which an answer "
            f"needs {room}: say it in fewer words"
        )

    def say(self, text: str, max_tokens: int, sampling: Sampling) -> tuple[Fitted, Iterator[str]]:
        """Add what the user says; the answer comes in pieces and joins the history at its end.

        An answer that is not read to its end joins as far as it was read, when it is closed. Where
        it cannot be answered the history is as it was.
        """
        self.messages.append(Message("user", text))
        try:
            fitted = self.fitted(max_tokens)
        except DataError:
            self.messages.pop()
            raise
        return fitted, self._answer(fitted, max_tokens, sampling)

    def _answer(self, fitted: Fitted, max_tokens: int, sampling: Sampling) -> Iterator[str]:
        pieces: list[str] = []
        try:
            for piece in stream_answer(self.answerer, fitted.ids, max_tokens, sampling, self.stop):
                pieces.append(piece)
                yield piece
        finally:
            self.messages.append(Message("assistant", "".join(pieces).strip()))

    def undo(self) -> str | None:
        """Take back the last turn of both sides; what the user had said, None if nothing was."""
        if len(self.messages) < 2:
            return None
        self.messages, said = self.messages[:-2], self.messages[-2].content
        return said
