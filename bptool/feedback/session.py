"""A reviewer's session: which pair is next, on which side each answer stands, what was said.

The two answers to a prompt are drawn by the seed and the prompt's number, and stand on sides that
are drawn too, so every reviewer with the same seed sees the same pairs, and none can tell by its
side which answer was drawn first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bptool.data.batches import raw_words
from bptool.feedback.prompts import as_messages
from bptool.feedback.store import Choice, Judgement, Store, decided
from bptool.inference.answers import Answerer, Prompt
from bptool.inference.sampling import Sampling

_STREAM_SIDES = 0xFEED_0001
MOST_DRAWS = 6
"""Answers that are drawn in search of two that differ."""
AHEAD = 16
"""Prompts whose answers are drawn at once."""


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt, on their sides."""

    prompt: Prompt
    number: int
    left: str
    right: str

    @property
    def identical(self) -> bool:
        return self.left == self.right


class Session:
    """The pairs that a reviewer has not judged yet, one after the other.

    Args:
        answerer: draws the answers. prompts: in order. store: where judgements are kept.
        reviewer: their name. sampling: how answers are drawn; its seed fixes them.
        source: what each judgement says of where the answers come from.
    """

    def __init__(
        self,
        answerer: Answerer,
        prompts: Sequence[Prompt],
        store: Store,
        reviewer: str,
        sampling: Sampling,
        max_tokens: int,
        source: dict[str, Any],
    ) -> None:
        self.store, self.reviewer = store, reviewer
        self._answerer, self._prompts, self._sampling = answerer, prompts, sampling
        self._max_tokens, self._source = max_tokens, source
        self._drawn: dict[int, Pair] = {}
        self._asked = [as_messages(prompt) for prompt in prompts]
        self._done = store.answered(reviewer)
        for prompt in prompts:
            answerer.encode(prompt)  # refuse now what cannot be answered

    @property
    def total(self) -> int:
        return len(self._prompts)

    @property
    def left_over(self) -> list[int]:
        """Numbers of the prompts without a judgement of this reviewer."""
        return [i for i, asked in enumerate(self._asked) if asked not in self._done]

    def next(self) -> Pair | None:
        """The next pair, None where all are judged. Identical answers are recorded as ties."""
        while waiting := self.left_over:
            if waiting[0] not in self._drawn:
                self._draw(waiting[:AHEAD])
            pair = self._drawn[waiting[0]]
            if not pair.identical:
                return pair
            self.judge(pair, "tie")
        return None

    def judge(self, pair: Pair, choice: Choice, edited: str | None = None) -> Judgement:
        """Record what was said of a pair."""
        judgement = decided(
            *(pair.prompt, pair.left, pair.right, choice, edited),
            reviewer=self.reviewer,
            seed=self._sampling.seed,
            number=pair.number,
            source=self._source,
        )
        self.store.add(judgement)
        self._done.add(as_messages(pair.prompt))
        return judgement

    def edit(self, pair: Pair, side: str, text: str) -> Judgement:
        """Record a better answer than the one on ``side``."""
        worse, other = (pair.left, pair.right) if side == "left" else (pair.right, pair.left)
        return self.judge(Pair(pair.prompt, pair.number, worse, other), "edit", text)

    def undo(self) -> Judgement | None:
        """Take back this reviewer's last judgement that was not made for them."""
        while taken := self.store.undo(self.reviewer):
            self._done.discard(as_messages(taken.prompt))
            if taken.left != taken.right:
                return taken
        return None

    def _draw(self, numbers: Sequence[int]) -> None:
        prompts = [self._prompts[i] for i in numbers]
        two = self._answerer.answers(prompts, 2, self._max_tokens, self._sampling, numbers)
        for number, prompt, answers in zip(numbers, prompts, two, strict=True):
            texts = [answer.text for answer in answers]
            if texts[0] == texts[1]:
                (more,) = self._answerer.answers(
                    [prompt], MOST_DRAWS, self._max_tokens, self._sampling, [number]
                )
                texts[1] = next((a.text for a in more if a.text != texts[0]), texts[1])
            word = int(raw_words(self._sampling.seed, _STREAM_SIDES, number, 1)[0])
            left, right = texts if word % 2 == 0 else reversed(texts)
            self._drawn[number] = Pair(prompt, number, left, right)
