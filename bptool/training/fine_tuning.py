"""What objectives of fine-tuning learn from: preferences, or prompts and rewards of answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from bptool.config.schema import RunConfig
from bptool.data.chat.rendering import Rendering
from bptool.data.corpus import Corpus
from bptool.data.preference_set import PreferenceSet, Unit, pack_documents, prepare_preferences
from bptool.data.tokenizers import Tokenizer
from bptool.models.base import Array
from bptool.objectives.base import Objective
from bptool.registry import objectives
from bptool.training.lessons.base import Lesson
from bptool.training.lessons.pairs import Pairs
from bptool.training.start import Start
from bptool.training.step import TrainingStep


class Material(ABC):
    """Read and tokenized; a lesson once there is a model."""

    corpus: Corpus
    """What a manifest knows it by."""

    @abstractmethod
    def lesson(self, config: RunConfig, step: TrainingStep, batch_rows: int) -> Lesson:
        """The lesson on it."""


def open_material(config: RunConfig, start: Start, context: int) -> Material:
    """What ``config`` learns from.

    Raises:
        UserError: a file is missing, broken or of the other kind.
    """
    return PairMaterial(config, start, context)


def build_objective(config: RunConfig) -> Objective:
    """The configured objective."""
    found: Objective = objectives.get(config.objective.name)(config.objective.config)
    return found


def read_units(config: RunConfig, tokenizer: Tokenizer, context: int) -> PreferenceSet:
    """The preferences of ``config``, written by its template."""
    rendering = Rendering(config.chat.template if config.chat else None, tokenizer)
    single_sided = config.objective.name == "kto"
    return prepare_preferences(config.data, rendering, context, single_sided)


class PairMaterial(Material):
    """Preferences, for dpo, ipo, kto and reward."""

    def __init__(self, config: RunConfig, start: Start, context: int) -> None:
        self._start, self._objective = start, build_objective(config)
        self.units = read_units(config, start.tokenizer, context)
        self.corpus = _corpus(self.units, context, not self._objective.of_logp)

    def lesson(self, config: RunConfig, step: TrainingStep, batch_rows: int) -> Lesson:
        return Pairs(
            *(step, self._objective, self.units, batch_rows, config.training, self._start.reference)
        )


def _corpus(units: PreferenceSet, context: int, scored: bool) -> Corpus:
    """The documents as the two arrays of a text."""

    def rows(some: Sequence[Unit]) -> Array:
        return pack_documents([d for unit in some for d in unit[:2]], context, scored).rows.tokens

    return Corpus(
        train=rows(units.train).ravel(),
        validation=rows(units.validation).ravel(),
        tokenizer=units.rendering.tokenizer,
        text_sha256=units.sha256,
        n_characters=0,
        validation_bytes=0,
        token_file=None,
        reused=False,
    )
