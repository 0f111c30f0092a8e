"""The text that a run writes at each evaluation."""

from __future__ import annotations

from bptool.data.chat.records import Message
from bptool.errors import DataError
from bptool.inference.sampling import Sampling
from bptool.inference.writer import Writer
from bptool.models.base import Array
from bptool.registry import templates
from bptool.training.callback import Callback, Event, State
from bptool.training.events import Evaluated, Sampled
from bptool.training.setup import Pieces


class Sampler(Callback):
    """Writes a text after each evaluation, with the weights as they are, or with their average.

    Raises:
        DataError: the prompt of the configuration cannot be encoded.
    """

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        params, tokenizer = pieces.step.average_params(), pieces.corpus.tokenizer
        self._writer = Writer(pieces.model, params, pieces.team, tokenizer)
        self._prompt_at(0)

    def __call__(self, event: Event, state: State) -> None:
        if isinstance(event, Evaluated) and self._pieces.config.sample.max_tokens > 0:
            self.emit(self.sample(event.step))

    def sample(self, step: int) -> Sampled:
        """A continuation of the prompt of ``step``, drawn by the seed of the run."""
        settings, seed = self._pieces.config.sample, self._pieces.config.training.seed
        sampling = Sampling(settings.temperature, settings.top_k, None, seed)
        shown, prompt = self._prompt_at(step)
        pieces = self._writer.write(prompt, settings.max_tokens, sampling)
        return Sampled(step, shown, "".join(piece for (piece,) in pieces))

    def _prompt_at(self, step: int) -> tuple[str, Array]:
        """What the sample at ``step`` goes on from: as it is shown, and its ids."""
        config, text = self._pieces.config, self._pieces.config.sample.prompt
        messages = (Message("user", text),) if text else self._pieces.lesson.opening(step)
        try:
            if config.chat is None or not messages:
                return text, self._writer.encode_prompt(text)
            template = templates.get(config.chat.template)()
            ids = template.prompt(messages, self._pieces.corpus.tokenizer)
            return f"{messages[-1].content}\n", ids
        except DataError as error:
            raise DataError(f"sample.prompt: {error}") from None
