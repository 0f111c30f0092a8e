"""What a run learns from: the steps that train, and what its weights are judged by.

A lesson draws its batches, takes the training step on them, and evaluates. The loop around it knows
neither texts nor batches: it counts steps, saves, evaluates and stops.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from bptool.data.chat.records import Message
from bptool.errors import RunError
from bptool.models.base import Array
from bptool.training.evaluation import Evaluation
from bptool.training.events import Notice
from bptool.training.step import StepResult


@dataclass(frozen=True)
class LessonStep:
    """A step that was taken."""

    result: StepResult
    n_tokens: int
    """Unmasked targets of the step."""
    flops: float
    """Model FLOPs of the step."""
    statistics: Mapping[str, float] = field(default_factory=dict)
    """What else a practitioner looks at, by name."""


@dataclass(frozen=True)
class Judged:
    """What weights are worth: the loss that the best checkpoint is chosen by, and more."""

    evaluation: Evaluation
    statistics: Mapping[str, float] = field(default_factory=dict)


class Lesson(ABC):
    """What a run learns from.

    Its steps are functions of the weights, the optimizer's state, its own state, the seed and the
    step's number, so that a resumed run takes the very steps of one that was not stopped.
    """

    loss_unit: ClassVar[str] = "nats per token"
    """Of what is minimised."""
    judged_as: ClassVar[str] = "validation loss"
    """What weights are judged by, in words."""
    maximised: ClassVar[bool] = False
    """Whether that is the better the higher it is; then the loss that they are judged by is less
    it."""
    judges_start: ClassVar[bool] = False
    """Whether the weights that the run starts from are judged too, before the first step."""

    @property
    def guessing_loss(self) -> float | None:
        """What its evaluations would give a model that only knows how frequent each token is; None
        where they are no mean loss of tokens."""
        return None

    @property
    @abstractmethod
    def tokens_per_step(self) -> int:
        """Tokens that a step runs the model on, masked ones too."""

    @abstractmethod
    def step(self, number: int, learning_rate: float) -> LessonStep:
        """Take step ``number``, from 1."""

    @abstractmethod
    def evaluate(self, params: Any) -> Judged:
        """Judge weights, given as the model's parameters."""

    def check(self) -> None:  # noqa: B027 - most lessons need nothing but what they were given
        """Try what only a step would need: the user's own program, say.

        Raises:
            UserError: it is missing or fails.
        """

    def compile(self) -> None:  # noqa: B027 - most lessons have nothing to compile
        """Compile what the lesson needs beyond the training step, or load it from the cache."""

    def opening(self, step: int) -> Sequence[Message]:
        """A conversation that the sample at ``step`` answers; none where there are no such."""
        return ()

    @property
    def material(self) -> str:
        """What it learns from, counted as a person would; nothing for the tokens of a text."""
        return ""

    @property
    def left_out(self) -> str:
        """How many records were left out and why, or nothing."""
        return ""

    def notices(self) -> Iterable[Notice]:
        """What the user should know, since it was last asked."""
        return ()

    def closing(self) -> Iterable[Notice]:
        """What the user should know of the whole run, once it has ended."""
        return ()

    def held_out(self) -> Sequence[Mapping[str, Any]]:
        """Which records are held out, and what for, as plain JSON values."""
        return ()

    def state(self) -> dict[str, Any]:
        """What a resume needs besides weights and optimizer state, as plain JSON values."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state` gave.

        Raises:
            RunError: it is not that.
        """
        if state:
            raise RunError(f"the checkpoint is of another kind of training: {sorted(state)}")

    def arrays(self) -> dict[str, Array]:
        """The same for arrays, by name: views that a checkpoint is written from and read into."""
        return {}
