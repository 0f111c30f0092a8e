"""What every tokenizer has in common.

A tokenizer is a list of **pieces**: piece ``i`` is the UTF-8 bytes that token ``i`` stands for.
Special tokens (end of text, roles) take the ids after the pieces and stand for no bytes. They are
never the result of encoding: text that spells one is ordinary text.
"""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from bptool import files
from bptool.config.section import Section
from bptool.errors import DataError, UserError
from bptool.registry import tokenizers

END_OF_TEXT = "<|endoftext|>"
FORMAT_VERSION = 1
MAX_FILE_BYTES = 256 * 1024**2
MAX_VOCAB_SIZE = 2**24
PIECE_CHARACTERS = 1 << 20
"""Of a long text, that are encoded at once."""
MOST_UNCUT = 1 << 24

Ids = NDArray[np.int32]


class TokenizerConfig(Section):
    """Settings that every tokenizer has."""

    special_tokens: list[str] | None = Field(
        default=None,
        description="tokens reserved beside the text's own, such as <|endoftext|> and <|user|>; "
        "by default the end of text where the split is by document, else none",
    )

    @field_validator("special_tokens")
    @classmethod
    def _distinct_and_not_empty(cls, value: list[str] | None) -> list[str] | None:
        _check_special_tokens(value or [])
        return value


class Tokenizer(ABC):
    """Base of all tokenizers.

    Args:
        pieces: the bytes of each ordinary token, in the order of ids.
        special_tokens: the special tokens, whose ids follow.
    """

    Config: ClassVar[type[TokenizerConfig]]
    name: ClassVar[str]
    learns_from: ClassVar[Literal["characters", "train"]] = "train"
    """Whether ``train`` is given all different characters of the whole text, or the training part
    of it in pieces."""
    in_threads: ClassVar[bool] = False
    """Whether ``encode_many`` may run in several threads at once, and is the faster for it."""
    note: str = ""
    """What whoever uses the tokenizer should know of how it was made; may be empty."""

    def __init__(self, pieces: Sequence[bytes], special_tokens: Sequence[str] = ()) -> None:
        _check_special_tokens(special_tokens)
        self.special_tokens = {s: len(pieces) + i for i, s in enumerate(special_tokens)}
        self._pieces = list(pieces)
        self._special_names = list(special_tokens)

    @classmethod
    @abstractmethod
    def train(cls, texts: Iterable[str], config: Any) -> Self:
        """Make a tokenizer for ``texts`` with the settings of ``config`` (a ``cls.Config``)."""

    @abstractmethod
    def encode(self, text: str) -> Ids:
        """Token ids of ``text``, int32; never a special one that the text spells.

        Raises:
            DataError: the text holds something that the tokenizer has no token for.
        """

    def check(self, text: str, start: Place | None = None) -> None:
        """Raise DataError where ``encode`` would; ``start`` is where ``text`` begins."""
        encodable(text, start)

    @abstractmethod
    def _state(self) -> dict[str, Any]:
        """What ``_from_state`` needs to make this tokenizer again, as JSON values."""

    @classmethod
    @abstractmethod
    def _from_state(cls, state: dict[str, Any], special_tokens: list[str]) -> Self:
        """Undo ``_state``; raises DataError, KeyError, TypeError or ValueError on damage."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return len(self._pieces) + len(self._special_names)

    def encode_many(self, texts: Sequence[str]) -> list[Ids]:
        """``encode`` of each text."""
        return [self.encode(text) for text in texts]

    @classmethod
    def pieces(cls, slices: Iterable[str]) -> Iterator[str]:
        """A text that comes in slices, cut where its encoding does not change.

        The ids of the pieces, joined, are those of the whole text, unless that has
        :data:`MOST_UNCUT` characters in a row between which no cut is known to be harmless: it is
        cut then, and decodes to the same text. Where the cuts are does not depend on the slices.
        """
        held = ""
        for piece in slices:
            held += piece
            start = 0
            while len(held) > start + PIECE_CHARACTERS:
                end = cls.cut(held, start + PIECE_CHARACTERS)
                if end < 0 and len(held) >= start + MOST_UNCUT:
                    end = start + MOST_UNCUT
                if end < 0:
                    break
                yield held[start:end]
                start = end
            held = held[start:]
        if held:
            yield held

    @classmethod
    def cut(cls, text: str, near: int) -> int:
        """The first place from ``near`` on where encoding may be cut; -1 where none is known yet.

        What is behind the end of ``text`` may be missing from it: the answer must hold whatever
        follows.
        """
        return near if near < len(text) else -1

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """Text of ``ids``. Bytes that are not UTF-8 become U+FFFD.

        Args:
            ids: token ids.
            skip_special: leave special tokens out instead of showing them as their text.
        """
        stream = self.stream(skip_special)
        return "".join([stream.push(i) for i in ids]) + stream.finish()

    def stream(self, skip_special: bool = False) -> TextStream:
        """A decoder that takes one id at a time and returns whole characters only."""
        return TextStream(self, skip_special)

    def piece(self, token_id: int) -> bytes | str:
        """What a token stands for: bytes, or the name of a special token."""
        if not 0 <= token_id < self.vocab_size:
            raise DataError(f"token id {token_id} is outside 0 to {self.vocab_size - 1}")
        if token_id < len(self._pieces):
            return self._pieces[token_id]
        return self._special_names[token_id - len(self._pieces)]

    def token_bytes(self) -> NDArray[np.int64]:
        """Number of UTF-8 bytes each token stands for, shape (vocab,); 0 for special tokens."""
        lengths = np.zeros(self.vocab_size, np.int64)
        lengths[: len(self._pieces)] = [len(piece) for piece in self._pieces]
        return lengths

    def n_bytes(self, ids: Iterable[int]) -> int:
        """Number of UTF-8 bytes that ``ids`` stand for."""
        array = ids if isinstance(ids, np.ndarray) else np.fromiter(ids, np.int64)
        return int(self.token_bytes()[array].sum())

    def to_json(self) -> dict[str, Any]:
        """The tokenizer as JSON values; see ``from_json``."""
        return {
            "format_version": FORMAT_VERSION,
            "tokenizer": self.name,
            "special_tokens": list(self._special_names),
            **self._state(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Make a tokenizer from what ``to_json`` returned.

        Raises:
            DataError: the value is damaged, or of a version this program does not know.
        """
        version = value.get("format_version")
        if version != FORMAT_VERSION:
            raise DataError(
                f"tokenizer format_version is {version!r}, this bptool reads {FORMAT_VERSION}; "
                "use the version of bptool that wrote it"
            )
        special = value.get("special_tokens")
        if not isinstance(special, list) or not all(isinstance(s, str) for s in special):
            raise DataError("damaged tokenizer: special_tokens is not a list of strings")
        try:
            _check_special_tokens(special)
            return cls._from_state(value, special)
        except KeyError as error:
            raise DataError(f"damaged tokenizer: {error.args[0]!r} is missing") from None
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"damaged tokenizer: {error}") from None

    def with_special_tokens(self, names: Iterable[str]) -> Self:
        """This tokenizer with those of ``names`` that it lacks, whose ids come last."""
        missing = [name for name in names if name not in self.special_tokens]
        return self._from_state(self._state(), [*self._special_names, *missing])

    def save(self, path: Path) -> None:
        """Write the tokenizer to ``path`` as JSON."""
        files.write_json(Path(path), self.to_json())


class TextStream:
    """Token ids to text, one at a time, holding back the bytes of an unfinished character."""

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The characters that ``token_id`` completes; may be empty."""
        piece = self._tokenizer.piece(int(token_id))
        if isinstance(piece, bytes):
            return self._decoder.decode(piece)
        return self.finish() + ("" if self._skip_special else piece)

    def finish(self) -> str:
        """What is left at the end: U+FFFD for a character that was never finished."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


def tokenizer_from_json(value: Any) -> Tokenizer:
    """The tokenizer of any kind that ``to_json`` turned into ``value``.

    Raises:
        DataError: the value is damaged or of an unknown kind or version.
    """
    if not isinstance(value, dict) or not isinstance(value.get("tokenizer"), str):
        raise DataError("not a tokenizer: there is no 'tokenizer' key with its kind")
    tokenizer: Tokenizer = tokenizers.get(value["tokenizer"]).from_json(value)
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer that ``save`` wrote.

    Raises:
        DataError: there is no such file, or it is damaged; one line that names it.
    """
    path = Path(path)
    try:
        value = files.loads_strictly(files.read_bounded(path, MAX_FILE_BYTES))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); copy it from the run again") from None
    try:
        return tokenizer_from_json(value)
    except UserError as error:
        raise DataError(f"{path}: {error}") from None


class UnknownCharacters(DataError):
    """A text holds characters for which a tokenizer has no token.

    Attributes:
        characters: each once, in the order of the text.
    """

    def __init__(self, message: str, characters: str) -> None:
        super().__init__(message)
        self.characters = characters


class Place(NamedTuple):
    """A place in a text: how many characters, lines and characters of its line stand before."""

    characters: int = 0
    lines: int = 0
    column: int = 0

    def after(self, text: str) -> Place:
        """The place behind ``text``, if that begins here."""
        n = text.count("\n")
        column = len(text) - text.rfind("\n") - 1 if n else self.column + len(text)
        return Place(self.characters + len(text), self.lines + n, column)


def encodable(text: str, start: Place | None = None) -> bytes:
    """The UTF-8 of ``text``; a DataError if it holds a lone surrogate, which has no bytes there."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        halves = "".join(dict.fromkeys(c for c in text if 0xD800 <= ord(c) <= 0xDFFF))
        raise UnknownCharacters(
            f"{describe_character(text, error.start, start)} is half of a surrogate pair, "
            "not a character; remove it",
            halves,
        ) from None


def describe_character(text: str, index: int, start: Place | None = None) -> str:
    """``'é' (U+00E9) at character 7 (line 2, column 3)``, all counting from 1."""
    place = (start or Place()).after(text[:index])
    return (
        f"{shown_character(text[index])} at character {place.characters + 1} "
        f"(line {place.lines + 1}, column {place.column + 1})"
    )


def shown_character(character: str) -> str:
    """``'é' (U+00E9)``."""
    shown = repr(character) if character.isprintable() else ascii(character)
    return f"{shown} (U+{ord(character):04X})"


def _check_special_tokens(special_tokens: Sequence[str]) -> None:
    if any(not s for s in special_tokens):
        raise ValueError("a special token is empty")
    if len(set(special_tokens)) != len(special_tokens):
        raise ValueError("a special token is listed twice")
