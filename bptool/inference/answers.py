"""Answers to prompts, many at a time: plain continuations, or turns of a conversation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bptool.data.chat.records import Message
from bptool.data.chat.templates import Template
from bptool.data.tokenizers import Tokenizer
from bptool.errors import DataError
from bptool.inference.generate import generate
from bptool.inference.sampling import Sampling
from bptool.inference.stop_strings import StopStrings
from bptool.models.base import Array, Model
from bptool.models.decoder import Workers

MOST_AT_ONCE = 64
"""Texts that are generated side by side: more would not be faster, and take more memory."""
STREAMS_A_PROMPT = 1 << 20

Prompt = str | Sequence[Message]


@dataclass(frozen=True)
class Answer:
    """What a model answered.

    Attributes:
        text: without the mark that ends it. tokens: all that were generated, that mark included.
        ended: whether the model ended it, and not the limit.
    """

    text: str
    tokens: tuple[int, ...]
    ended: bool


class Answerer:
    """Answers prompts with one model.

    Args:
        model: the model. params: its weights. workers: a team. tokenizer: its own.
        template: how conversations are written; None: a prompt is a text that goes on.
    """

    def __init__(
        self,
        model: Model,
        params: Any,
        workers: Workers,
        tokenizer: Tokenizer,
        template: Template | None,
    ) -> None:
        self.model, self.params, self.workers = model, params, workers
        self.tokenizer, self.template = tokenizer, template
        self._stop = set(tokenizer.special_tokens.values())

    def encode(self, prompt: Prompt) -> Array:
        """Ids (t,) of a prompt, t >= 1, up to where the answer begins.

        Raises:
            DataError: it is empty, has unknown characters, or leaves no room for an answer.
        """
        if self.template is not None:
            messages = (Message("user", prompt),) if isinstance(prompt, str) else prompt
            ids = self.template.prompt(messages, self.tokenizer)
        else:
            if not isinstance(prompt, str) and len(prompt) != 1:
                raise DataError(
                    f"a prompt has {len(prompt)} turns, and a run without a chat template cannot "
                    "tell who speaks; give single prompts, or a run that was trained with "
                    "`bptool finetune sft RUN --template roles`"
                )
            ids = self.tokenizer.encode(prompt if isinstance(prompt, str) else prompt[0].content)
        if not 1 <= len(ids) < self.model.context:
            raise DataError(
                f"a prompt of {len(ids):,} tokens: it must have one, and fewer than the model's "
                f"context of {self.model.context:,}"
            )
        return ids

    def answers(
        self,
        prompts: Sequence[Prompt],
        n: int,
        max_tokens: int,
        sampling: Sampling,
        numbers: Sequence[int] | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[list[Answer]]:
        """``n`` answers to each prompt, of at most ``max_tokens`` tokens and within the context.

        Answer s to a prompt is drawn by the seed, s and the prompt's number (its place, by
        default), and does not depend on what else is answered.
        """
        ids = [self.encode(prompt) for prompt in prompts]
        numbers = range(len(ids)) if numbers is None else numbers
        found: list[list[Answer]] = []
        at_once = max(1, MOST_AT_ONCE // n)
        for start in range(0, len(ids), at_once):
            part = slice(start, start + at_once)
            found += self._batch(ids[part], list(numbers[part]), n, max_tokens, sampling)
            progress(len(found))
        return found

    def _batch(
        self,
        prompts: list[Array],
        numbers: list[int],
        n: int,
        max_tokens: int,
        sampling: Sampling,
    ) -> list[list[Answer]]:
        streams = [STREAMS_A_PROMPT * number + s for number in numbers for s in range(n)]
        room = [self.model.context - len(ids) for ids in prompts for _ in range(n)]
        tokens: list[list[int]] = [[] for _ in streams]
        steps = generate(
            *(self.model, self.params, self.workers, prompts, min(max_tokens, max(room))),
            *(sampling, n, self._stop, streams),
        )
        for step in steps:
            for text, token in enumerate(step):
                if token is not None and len(tokens[text]) < room[text]:
                    tokens[text].append(token)
        answers = [self._answer(own) for own in tokens]
        return [answers[i : i + n] for i in range(0, len(answers), n)]

    def _answer(self, tokens: list[int]) -> Answer:
        ended = bool(tokens) and tokens[-1] in self._stop
        text = self.tokenizer.decode(tokens[:-1] if ended else tokens, skip_special=True)
        return Answer(text.strip(), tuple(tokens), ended)


def stream_answer(
    answerer: Answerer,
    prompt: Array,
    max_tokens: int,
    sampling: Sampling,
    stop_strings: Sequence[str] = (),
) -> Iterator[str]:
    """One answer, piece by piece as it is generated, whole characters only; it ends before any of
    ``stop_strings``."""
    cut = StopStrings(stop_strings)
    text = answerer.tokenizer.stream(skip_special=True)
    room = min(max_tokens, answerer.model.context - len(prompt))
    stop = set(answerer.tokenizer.special_tokens.values())
    steps = generate(
        *(answerer.model, answerer.params, answerer.workers, [prompt], room),
        *(sampling, 1, stop),
    )
    for (token,) in steps:
        if token is not None:
            yield cut.push(text.push(token))
        if cut.ended:
            return
    yield cut.push(text.finish()) + cut.finish()
