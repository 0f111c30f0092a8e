"""Chat templates: how a conversation becomes tokens, and which of them are trained on.

A template puts marks around what each side says. Marks are special tokens, which no text can spell,
so a user cannot speak for the assistant. What the assistant says is trained on, and the mark that
ends it, so that the model learns to stop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bptool.config.section import Section
from bptool.data.chat.records import Message, Record, is_trained
from bptool.data.tokenizers import END_OF_TEXT, Tokenizer
from bptool.data.tokenizers.base import UnknownCharacters
from bptool.registry import templates


class Part(NamedTuple):
    """A piece of a rendered conversation."""

    text: str
    special: bool = False
    """Whether it is a special token, and not text."""
    trained: bool = False


class Encoded(NamedTuple):
    """Token ids, and which of them are trained on; both (t,)."""

    ids: NDArray[np.int32]
    trained: NDArray[np.bool_]


class Template(ABC):
    """A way to write a conversation.

    Attributes:
        special_tokens: those it needs. end: the one that ends what the assistant says.
    """

    Config: ClassVar[type[Section]] = Section
    name: ClassVar[str]
    special_tokens: ClassVar[tuple[str, ...]]
    end: ClassVar[str]

    @abstractmethod
    def message(self, message: Message) -> Iterator[Part]:
        """A message with its marks; of the assistant's, content and end are trained on."""

    @abstractmethod
    def opening(self) -> Iterator[Part]:
        """What stands before the assistant's answer."""

    def encode(self, record: Record, tokenizer: Tokenizer) -> Encoded:
        """A whole record.

        Raises:
            UnknownCharacters: it has characters that the tokenizer does not know.
        """
        if record.text is not None:
            parts = [Part(record.text, trained=True), Part(self.end, special=True, trained=True)]
        else:
            parts = [part for message in record.messages for part in self.message(message)]
        return encode_parts(parts, tokenizer)

    def prompt(self, messages: Sequence[Message], tokenizer: Tokenizer) -> NDArray[np.int32]:
        """Ids of a conversation up to where the assistant answers."""
        parts = [part for message in messages for part in self.message(message)]
        return encode_parts([*parts, *self.opening()], tokenizer).ids

    def answer(self, text: str, tokenizer: Tokenizer) -> NDArray[np.int32]:
        """Ids of what the assistant says after :meth:`prompt`, its end included."""
        return np.append(tokenizer.encode(text), self.end_id(tokenizer)).astype(np.int32)

    def end_id(self, tokenizer: Tokenizer) -> int:
        """Id of the token that ends an answer."""
        return tokenizer.special_tokens[self.end]


def encode_parts(parts: Sequence[Part], tokenizer: Tokenizer) -> Encoded:
    """Ids of parts, one after the other. Text that spells a special token stays text."""
    ids, trained = [np.empty(0, np.int32)], [np.empty(0, np.bool_)]
    unknown: list[UnknownCharacters] = []
    for part in parts:
        try:
            if part.special:
                own = np.array([tokenizer.special_tokens[part.text]], np.int32)
            else:
                own = tokenizer.encode(part.text)
        except UnknownCharacters as error:
            unknown.append(error)
            continue
        ids.append(own)
        trained.append(np.full(len(own), part.trained))
    if unknown:
        characters = "".join(dict.fromkeys("".join(error.characters for error in unknown)))
        raise UnknownCharacters(str(unknown[0]), characters)
    return Encoded(np.concatenate(ids), np.concatenate(trained))


@templates.register("roles")
class Roles(Template):
    """``<|user|>What?<|end|><|assistant|>That.<|end|>``: one mark before, one after."""

    special_tokens = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
    end = "<|end|>"

    def message(self, message: Message) -> Iterator[Part]:
        trained = is_trained(message)
        yield Part(f"<|{message.role}|>", special=True)
        yield Part(message.content, trained=trained)
        yield Part(self.end, special=True, trained=trained)

    def opening(self) -> Iterator[Part]:
        yield Part("<|assistant|>", special=True)


@templates.register("chatml")
class ChatML(Template):
    """``<|im_start|>user`` and a line end before, ``<|im_end|>`` and a line end after."""

    special_tokens = ("<|im_start|>", "<|im_end|>")
    end = "<|im_end|>"

    def message(self, message: Message) -> Iterator[Part]:
        trained = is_trained(message)
        yield Part("<|im_start|>", special=True)
        yield Part(f"{message.role}\n")
        yield Part(message.content, trained=trained)
        yield Part(self.end, special=True, trained=trained)
        yield Part("\n")

    def opening(self) -> Iterator[Part]:
        yield Part("<|im_start|>", special=True)
        yield Part("assistant\n")


@templates.register("plain")
class Plain(Template):
    """``User: What?``, ``Assistant: That.``: names in plain text, and an end-of-text token."""

    special_tokens = (END_OF_TEXT,)
    end = END_OF_TEXT

    def message(self, message: Message) -> Iterator[Part]:
        if message.role == "assistant":
            yield from self.opening()
            yield Part(message.content, trained=message.trained)
            yield Part(self.end, special=True, trained=message.trained)
        else:
            yield Part(f"{message.role.capitalize()}: ")
            yield Part(message.content)
            yield Part("\n")

    def opening(self) -> Iterator[Part]:
        yield Part("Assistant: ")
