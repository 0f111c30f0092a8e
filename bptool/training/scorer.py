"""What scores answers: a reward run, or a user's rules."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from bptool.data.chat.records import Message
from bptool.data.chat.rendering import Rendering
from bptool.data.preference_set import Document, fits, pack_documents
from bptool.errors import ConfigError, DataError, RunError
from bptool.feedback.prompts import PromptRecord, as_messages, said_last
from bptool.feedback.rules import Rules
from bptool.models.base import Array
from bptool.training.answers_now import rows_of
from bptool.training.machine import Engine
from bptool.training.token_shards import TokenShards
from bptool.training.trained import TrainedRun, open_run
from bptool.training.workers import WorkerTeam

Prompt = Sequence[Message]
Records = Sequence[PromptRecord]
ROWS = 8
"""Rows that go through a reward model at once, for each worker."""


class Rewards(Protocol):
    """Scores answers to prompts."""

    def check(self, prompts: Records = ()) -> None:
        """Raise a UserError where it cannot score, or not answers to one of ``prompts``."""

    def uses(self, column: str) -> bool:
        """Whether it looks at a further column of the records."""

    def scores(self, prompts: Records, answers: Sequence[str]) -> Array:
        """A score of each answer, float64 (A,)."""


class Scorer:
    """Scores answers by a run of ``bptool finetune reward``.

    Args:
        run: its folder, or the run opened. team: the workers.

    Raises:
        UserError: there is no such run, it is damaged, or it has no scalar head.
    """

    def __init__(self, run: Path | TrainedRun, team: WorkerTeam) -> None:
        self.run = open_run(run) if isinstance(run, Path) else run
        model, place = self.run.model, self.run.folder.path
        if not model.has_scores or self.run.config.objective.name != "reward":
            raise RunError(f"{place} is no reward model; make one with `bptool finetune reward`")
        self._rendering = Rendering(self.run.chat_template, self.run.tokenizer)
        engine: Engine = self.run.engine
        self._shards = TokenShards(
            *(model, team, engine, ROWS * team.n, model.context),
            with_gradients=False,
            documents=True,
        )

    def check(self, prompts: Records = ()) -> None:
        """Raise a UserError where a prompt cannot be written as the reward model reads it."""
        for record in prompts:
            try:
                self._rendering.prompt(as_messages(record.prompt))
            except DataError as error:
                run = self.run.folder.path
                raise DataError(
                    f"{record.place}: the reward model {run} cannot read it: {error}"
                ) from None

    def uses(self, column: str) -> bool:
        return False

    def scores(self, prompts: Records, answers: Sequence[str]) -> Array:
        """A score of each answer, float64 (A,). Of a prompt that leaves too little room only the
        end is read."""
        documents = [
            self._document(as_messages(record.prompt), answer)
            for record, answer in zip(prompts, answers, strict=True)
        ]
        if not documents:
            return np.zeros(0)
        packed = pack_documents(documents, self.run.model.context, scored=True)
        outputs = self._shards.outputs(self.run.params, rows_of(packed), of_logp=False)
        return outputs.scores[packed.last].astype(np.float64)

    def _document(self, prompt: Prompt, answer: str) -> Document:
        ids, said = self._rendering.prompt(prompt), self._rendering.answer(answer)
        context = self.run.model.context
        said = said[-context:]
        ids = ids[max(0, len(ids) + len(said) - context) :]
        document = Document(np.concatenate([ids, said]).astype(np.int32), len(ids))
        assert fits(document, context)
        return document


class RuledRewards:
    """Scores answers by the ``reward`` of a rules file.

    Args:
        path: the Python file, which is run when it is needed, if the user named it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @functools.cached_property
    def _rules(self) -> Rules:
        rules = Rules(self._path)
        if not rules.rewards:
            raise ConfigError(f"{self._path} has no function reward(prompt, answer); write one")
        return rules

    def check(self, prompts: Records = ()) -> None:
        """Run the file, and raise a UserError where it asks for what a record does not have."""
        assert self._rules is not None
        for record in prompts:
            self._rules.check(record.columns, record.place, rewards_only=True)

    def uses(self, column: str) -> bool:
        return self._rules.uses(column)

    def scores(self, prompts: Records, answers: Sequence[str]) -> Array:
        return np.array(
            [
                self._rules.reward(said_last(record.prompt), answer, record.columns)
                for record, answer in zip(prompts, answers, strict=True)
            ]
        )


def open_rewards(place: str, team: WorkerTeam) -> Rewards:
    """What ``place`` names: the folder of a reward run, or a Python file of rules, which is run
    only where the user has named it."""
    path = Path(place)
    return Scorer(path, team) if path.is_dir() else RuledRewards(path)


def check_rewards(place: str) -> None:
    """Raise a UserError unless ``place`` can reward answers."""
    with WorkerTeam(1) as team:
        open_rewards(place, team).check()


def identity_of(place: Path) -> str | None:
    """A hash of a reward run's best weights; None where ``place`` is no folder but a program, which
    the manifest knows by itself.

    Raises:
        UserError: there is no such run.
    """
    if not place.is_dir():
        return None
    return hashlib.sha256(open_run(place).weights.tobytes()).hexdigest()
