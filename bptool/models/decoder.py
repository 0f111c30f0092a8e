"""What every model's decoder provides: sequences of different lengths, one append for all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from bptool.models.base import Array
from bptool.ops.team import Team


class Workers(Protocol):
    """The parts of :class:`bptool.training.workers.WorkerTeam` that decoding needs."""

    n: int
    members: list[Team]

    def run(self, function: Callable[[int], Any]) -> list[Any]: ...


class Decoder(ABC):
    """Decodes up to ``capacity`` sequences side by side, each with positions of its own.

    It starts without sequences. What comes out for a sequence is the same, bit for bit, whatever
    other sequences there are, in how many parts its tokens are appended, and with how many workers.
    """

    @property
    @abstractmethod
    def n_sequences(self) -> int:
        """How many sequences there are now."""

    @abstractmethod
    def room(self, sequence: int) -> int:
        """How many more positions fit into a sequence."""

    @abstractmethod
    def add(self, n: int) -> None:
        """``n`` more sequences, empty, behind those there are."""

    @abstractmethod
    def select(self, parents: Sequence[int]) -> None:
        """Sequence i goes on from what ``parents[i]`` is now.

        A number that is left out drops a sequence; one that is repeated forks it, and what the
        copies have in common is stored once.
        """

    @abstractmethod
    def restart(self, sequence: int) -> None:
        """Forget a sequence's positions."""

    @abstractmethod
    def append(self, tokens: Sequence[Array]) -> Array:
        """Append ids (t_i,), t_i >= 1, to each sequence i; logits (n_sequences, V) after the last.

        The array is overwritten by the next call.
        """


def check_append(decoder: Decoder, tokens: Sequence[Array]) -> None:
    """Refuse what :meth:`Decoder.append` cannot take; a slip of the caller, so a ValueError."""
    if len(tokens) != decoder.n_sequences:
        raise ValueError(f"{len(tokens)} lists of tokens for {decoder.n_sequences} sequences")
    for sequence, new in enumerate(tokens):
        if not 1 <= len(new) <= decoder.room(sequence):
            raise ValueError(
                f"sequence {sequence} has room for {decoder.room(sequence)} positions; "
                f"{len(new)} tokens are given"
            )


def check_capacity(n_sequences: int, capacity: int) -> None:
    """Refuse more sequences than a decoder was made for."""
    if n_sequences > capacity:
        raise ValueError(f"{n_sequences} sequences; the decoder was made for {capacity}")


def check_parents(decoder: Decoder, parents: Sequence[int], capacity: int) -> None:
    """Refuse what :meth:`Decoder.select` cannot take."""
    check_capacity(len(parents), capacity)
    if any(not 0 <= parent < decoder.n_sequences for parent in parents):
        raise ValueError(f"parents {list(parents)} of {decoder.n_sequences} sequences")
