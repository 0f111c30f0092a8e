"""What objectives of fine-tuning learn from: preferences, or prompts and rewards of answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bptool.config.schema import RunConfig
from bptool.data.chat.rendering import Rendering
from bptool.data.corpus import Corpus
from bptool.data.preference_set import PreferenceSet, Unit, pack_documents, prepare_preferences
from bptool.data.sources import Texts
from bptool.data.tokenizers import Tokenizer
from bptool.data.whole import encode_each
from bptool.errors import DataError
from bptool.models.base import Array
from bptool.objectives.base import Objective
from bptool.registry import objectives
from bptool.training.lessons.base import Lesson
from bptool.training.lessons.pairs import Pairs
from bptool.training.lessons.rollouts import Rollouts
from bptool.training.prompt_set import PromptSet, prepare_prompts
from bptool.training.scorer import identity_of, open_rewards
from bptool.training.start import Start
from bptool.training.step import TrainingStep


class Material(ABC):
    """Read and tokenized; a lesson once there is a model."""

    corpus: Corpus
    """What a manifest knows it by."""

    @abstractmethod
    def lesson(self, config: RunConfig, step: TrainingStep, batch_rows: int) -> Lesson:
        """The lesson on it."""


def open_material(
    config: RunConfig, start: Start, context: int, units: PreferenceSet | None = None
) -> Material:
    """What ``config`` learns from; ``units`` are its preferences, where they were read before.

    Raises:
        UserError: a file is missing, broken or of the other kind.
    """
    if config.rollouts is not None:
        return PromptMaterial(config, start, context)
    return PairMaterial(config, start, context, units)


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

    def __init__(
        self, config: RunConfig, start: Start, context: int, units: PreferenceSet | None = None
    ) -> None:
        self._start, self._objective = start, build_objective(config)
        self.units = units or read_units(config, start.tokenizer, context)
        self.corpus = _corpus(self.units, context, not self._objective.of_logp)

    def lesson(self, config: RunConfig, step: TrainingStep, batch_rows: int) -> Lesson:
        return Pairs(
            *(step, self._objective, self.units, batch_rows, config.training, self._start.reference)
        )


class PromptMaterial(Material):
    """Prompts, and what rewards answers to them, for ppo and grpo."""

    def __init__(self, config: RunConfig, start: Start, context: int) -> None:
        assert config.rollouts is not None
        self._start, self._objective = start, build_objective(config)
        self.prompts = read_prompt_set(config, start.tokenizer, context)
        self._mix = _mix_of(config, start.tokenizer, context)
        rewarded_by = identity_of(Path(config.rollouts.reward))
        self.corpus = Corpus(
            train=np.concatenate(self.prompts.train_ids),
            validation=np.concatenate(self.prompts.validation_ids),
            tokenizer=start.tokenizer,
            text_sha256=self.prompts.digest(self._mix, rewarded_by or ""),
            n_characters=0,
            validation_bytes=0,
            token_file=None,
            reused=False,
        )

    def lesson(self, config: RunConfig, step: TrainingStep, batch_rows: int) -> Lesson:
        assert config.rollouts is not None
        assert self._start.reference is not None
        rewards = open_rewards(config.rollouts.reward, step.shards.team)
        return Rollouts(
            *(step, self._objective, self.prompts, config.rollouts, config.training),
            *(self._start.reference, rewards, self._mix),
        )


def read_prompt_set(config: RunConfig, tokenizer: Tokenizer, context: int) -> PromptSet:
    """The prompts of ``config``, written by its template."""
    assert config.rollouts is not None
    rendering = Rendering(config.chat.template if config.chat else None, tokenizer)
    return prepare_prompts(config.data, rendering, context, config.rollouts.max_tokens)


def _mix_of(config: RunConfig, tokenizer: Tokenizer, context: int) -> Array | None:
    """Tokens of the pretraining mix, mapped from their file, if there is one."""
    assert config.rollouts is not None
    if not config.rollouts.mix_text or config.rollouts.mix_weight == 0:
        return None
    ids = encode_each(Texts(config.rollouts.mix_text), tokenizer)
    if len(ids) <= context:
        raise DataError(
            f"rollouts.mix_text has {len(ids)} tokens; give more than the context's {context}"
        )
    return ids


def _corpus(units: PreferenceSet, context: int, scored: bool) -> Corpus:
    """The documents as the two arrays of a text."""

    def rows(some: Sequence[Unit]) -> Array:
        documents = [document for unit in some for document in unit[:2]]
        return pack_documents(documents, context, scored).rows.tokens

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
