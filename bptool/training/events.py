"""What a training loop says while it runs.

The loop never prints: the command line, the metrics file and the tests are listeners, each a
callable that takes one event. Losses are mean negative log-likelihoods in nats per token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bptool.data.counted import Counted


@dataclass(frozen=True)
class TrainingStarted:
    run_dir: str
    model: str
    n_parameters: int
    n_train_tokens: int
    n_validation_tokens: int
    tokens_per_step: int
    start_step: int
    n_steps: int
    n_workers: int
    engine: str
    peak_flops: float | None
    """Measured multiply-adds of all workers at once, in floating-point operations a second."""
    engine_choice: str = ""
    """What the engine was taken for, where it was not named."""
    judged_as: str = "validation loss"
    """What weights are judged by, in words."""
    maximised: bool = False
    """Whether it is the better the higher it is; the ``val_loss`` of evaluations is less it."""
    material: str = ""
    """What is trained on and validated with, where a count of tokens would not say."""


@dataclass(frozen=True)
class Compiling:
    """Kernel compilation for ``what`` begins (``done=False``) or has ended."""

    what: str
    done: bool
    seconds: float = 0.0
    cached: bool = False


@dataclass(frozen=True)
class StepDone:
    step: int
    """Steps done, counting from 1."""
    loss: float
    penalty: float
    """What else is minimised, not part of ``loss``: label smoothing, z-loss, penalties on weights.
    """
    grad_norm: float
    learning_rate: float
    seconds: float
    n_tokens: int
    """Unmasked targets of the step."""
    flops: float
    """Model FLOPs of the step (see ``Model.flops_per_token``)."""
    skipped: bool = False
    """True when the weights were left alone: a gradient that was not finite, or a spike."""
    statistics: Mapping[str, float] = field(default_factory=dict)
    """What else the lesson found, by name."""


@dataclass(frozen=True)
class Evaluated:
    step: int
    train_loss: float
    """Mean training loss since the evaluation before; NaN before the first step."""
    val_loss: float
    bits_per_byte: float
    n_tokens: int
    seconds: float
    is_best: bool
    overfitting: bool
    """True once validation loss has risen for several evaluations while training loss fell."""
    average_val_loss: float | None = None
    """That of the average of the weights, None where none is made; then best and overfitting go by
    it, and ``val_loss`` is that of the weights themselves."""
    average_bits_per_byte: float | None = None
    statistics: Mapping[str, float] = field(default_factory=dict)
    """What else the lesson found of the weights that are judged, by name."""

    @property
    def judged_loss(self) -> float:
        """The loss that the best checkpoint is chosen by."""
        return self.val_loss if self.average_val_loss is None else self.average_val_loss

    @property
    def judged_bits_per_byte(self) -> float:
        bits = self.average_bits_per_byte
        return self.bits_per_byte if bits is None else bits


@dataclass(frozen=True)
class Sampled:
    step: int
    prompt: str
    text: str


@dataclass(frozen=True)
class CheckpointSaved:
    step: int
    path: str
    is_best: bool


@dataclass(frozen=True)
class StoppedEarly:
    """Training ends, since the validation loss has not improved by more than its noise for long."""

    step: int
    n_evaluations: int
    """Without an improvement, this one among them."""
    since_step: int
    """Of the last improvement."""
    since_val_loss: float
    improvement: float
    """Of this evaluation on that one, nats per token; negative where it is worse."""
    margin: float
    """That it had to be above."""

    def __str__(self) -> str:
        return (
            f"early stopping: {self.n_evaluations} evaluations without an improvement on "
            f"{self.since_val_loss:.4f} at step {self.since_step:,} that is above the noise "
            f"(last {self.improvement:+.4f}, needed {self.margin:.4f})"
        )


@dataclass(frozen=True)
class Notice:
    """Something the user should know, in one line."""

    text: str
    level: str = "info"
    """``info`` or ``warning``."""


@dataclass(frozen=True)
class TrainingFinished:
    step: int
    seconds: float
    best_step: int
    best_val_loss: float
    interrupted: bool
    run_dir: str
    files: dict[str, str] = field(default_factory=dict)
    """What was written, by name: ``{"plot": ".../loss.png", ...}``."""
    stopped_early: bool = False
    peak_memory_bytes: int | None = None
    """Most memory that the process had in use so far; None where the system does not tell."""
    answers: bool = False
    """Whether the run has a chat template, so that one can talk with it."""
    scores: str = ""
    """Of a reward model, which cannot write, the run that it started from."""
    counted: Counted | None = None
    """What counting reaches on the bytes that the run was judged on; None where it was interrupted,
    or is not judged on a text."""
    left_out: str = ""
    """How many records were left out and why, or nothing."""
    guessing_loss: float | None = None
    """Validation loss of guessing each token by its frequency; None where losses are of no tokens.
    """
    failed: bool = False
    """Whether no evaluation was ever below that, in a run that was long enough to be."""
    warnings: tuple[str, ...] = ()
    """What was wrong with the run, one sentence each."""


Event = (
    TrainingStarted
    | Compiling
    | StepDone
    | Evaluated
    | Sampled
    | CheckpointSaved
    | StoppedEarly
    | Notice
    | TrainingFinished
)
Listener = Callable[[Event], None]
