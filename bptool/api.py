"""bptool as a library: what the command line does, as functions that return values.

Nothing here prints, installs a signal handler or ends the process; what goes wrong is raised as
:class:`bptool.errors.BptoolError`. Heavy modules are imported when a function needs them, so that
``import bptool`` costs next to nothing.

Settings are given by the keys of a configuration, with dots: ``{"training.steps": 500}``. Programs
of the user's (plug-ins, rewards) run only where a call names them, as on the command line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bptool import consent

if TYPE_CHECKING:
    import contextlib

    import numpy as np
    import numpy.typing as npt

    from bptool.comparison.events import Event as StudyEvent
    from bptool.data.chat.records import Message
    from bptool.gradient_check.session import Findings
    from bptool.inference.answers import Answerer
    from bptool.recipes.request import Request
    from bptool.training.events import Event
    from bptool.training.measure import Measurement
    from bptool.training.trained import TrainedRun
    from bptool.training.workers import WorkerTeam

    OnEvent = Callable[[Event], None]

__all__ = [
    "Conversation",
    "Run",
    "compare_optimizers",
    "finetune",
    "gradcheck",
    "load",
    "resume",
    "train",
]

PathLike = str | Path


def train(
    config: PathLike | Sequence[PathLike],
    *,
    text: PathLike | Sequence[PathLike] = (),
    settings: Mapping[str, Any] | None = None,
    out: PathLike | None = None,
    start: PathLike | None = None,
    plugins: Sequence[PathLike] = (),
    on_event: OnEvent | None = None,
) -> Run:
    """Train a model and return its run.

    Args:
        config: a ``CONFIG.yaml``, or text files, for which settings are chosen by their size.
        text: texts to train on in place of the configuration's.
        settings: changes of single settings, ``{"training.steps": 500}``.
        out: folder of the run; by default one named after ``config`` in ``runs/``.
        start: a run whose weights and tokenizer the new one starts from.
        plugins: Python files or modules with more parts, which are run.
        on_event: called with each event of :mod:`bptool.training.events` as it happens.

    Raises:
        BptoolError: a setting, a text or the folder is unfit, or the loss was no longer finite.
    """
    from bptool.recipes.training import settle

    sources = _strings(config)
    _name_programs(plugins, *sources, start)
    request = settle(
        sources, _strings(text), _sets(settings), _path(out), False, start=_path(start)
    )
    return _run(request, on_event)


def resume(
    run: PathLike,
    *,
    settings: Mapping[str, Any] | None = None,
    checkpoint: str = "last",
    plugins: Sequence[PathLike] = (),
    reward: PathLike | None = None,
    on_event: OnEvent | None = None,
) -> Run:
    """Go on with a run from a checkpoint, bit for bit as if it had never stopped.

    Args:
        run: its folder.
        settings: changes that a resume allows, as ``{"training.steps": 5000}``.
        checkpoint: ``last``, or the name of another; later ones are given up.
        reward: the Python file that rewards answers, where the run has one.

    Raises:
        BptoolError: the run is damaged, its text was changed, or a setting may not change.
    """
    from bptool.recipes.programs import with_reward
    from bptool.recipes.training import settle

    _name_programs(plugins, run, reward=reward, resumed=Path(run))
    request = settle([str(run)], [], _sets(settings), None, True, checkpoint)
    with_rewards = with_reward(request.config, None if reward is None else str(reward))
    return _run(replace(request, config=with_rewards), on_event)


Method = Literal["sft", "dpo", "ipo", "kto", "reward", "ppo", "grpo"]


def finetune(
    run: PathLike,
    method: Method,
    *,
    data: PathLike | Sequence[PathLike],
    validation: PathLike | Sequence[PathLike] = (),
    epochs: float | None = None,
    steps: int = 200,
    reward: PathLike | None = None,
    lora: str | None = None,
    template: str | None = None,
    objective: Mapping[str, Any] | None = None,
    rollouts: Mapping[str, Any] | None = None,
    skip_bad: bool = False,
    settings: Mapping[str, Any] | None = None,
    out: PathLike | None = None,
    plugins: Sequence[PathLike] = (),
    on_event: OnEvent | None = None,
) -> Run:
    """Train a trained model further, and return the new run.

    Args:
        run: folder of the run to start from.
        method: ``sft`` on records; ``dpo``, ``ipo``, ``kto`` or ``reward`` on judgements; ``ppo``
            or ``grpo`` on prompts and rewards.
        data: records, judgements or prompts; docs/data.md has the forms.
        validation: the same to validate with; else a share of ``data``.
        epochs: times that each record is seen; by default 3 for ``sft`` and 1 for judgements.
        steps: updates of ``ppo`` and ``grpo``.
        reward: what rewards answers in ``ppo`` and ``grpo``: a Python file, or a reward run.
        lora: settings of adapters for ``sft``, ``rank=8,alpha=16``.
        template: how conversations are written: ``roles``, ``chatml`` or ``plain``.
        objective: settings of the objective, ``{"beta": 0.2}``.
        rollouts: settings of the answers that ``ppo`` and ``grpo`` sample.
        skip_bad: leave broken records out.

    Raises:
        BptoolError: the run, the data or a setting is unfit.
    """
    from bptool.errors import ConfigError
    from bptool.recipes import fine_tuning

    _name_programs(plugins, run, reward=reward)
    common: dict[str, Any] = {
        "validation": _strings(validation),
        "template": template,
        "skip_bad": skip_bad,
        "checkpoint": "best",
        "sets": _sets(settings),
        "out": _path(out),
    }
    records = {"data": _strings(data), **common}
    if method == "sft":
        n_epochs = 3 if epochs is None else epochs
        request = fine_tuning.settle_sft(Path(run), epochs=n_epochs, lora=lora, **records)
    elif method in ("ppo", "grpo"):
        if reward is None:
            raise ConfigError(f"{method} needs what rewards answers: reward=, a file or a run")
        asked: dict[str, Any] = {
            "prompts": _strings(data), "steps": steps, "rollouts": dict(rollouts or {})
        }  # fmt: skip
        request = fine_tuning.settle_rollouts(
            Path(run), method, reward=str(reward), **asked, **common
        )
    else:
        named = {"name": method, **(objective or {})}
        n_epochs = 1 if epochs is None else epochs
        request = fine_tuning.settle_preferences(Path(run), named, epochs=n_epochs, **records)
    return _run(request, on_event)


def load(
    run: PathLike,
    *,
    checkpoint: Literal["best", "last"] = "best",
    weights: Literal["raw", "average"] | None = None,
    plugins: Sequence[PathLike] = (),
) -> Run:
    """Open a trained run.

    Args:
        checkpoint: the best by validation, or the last.
        weights: as trained, or their average; by default the average where there is one.

    Raises:
        BptoolError: no run is there, or one of its files is damaged.
    """
    _name_programs(plugins, run)
    opened = Run(Path(run), checkpoint, weights)
    opened.step  # noqa: B018 - opens it, so that what is wrong is said here
    return opened


class Run:
    """A trained run: what its folder holds, opened when it is first needed.

    Attributes:
        path: its folder.
    """

    def __init__(
        self,
        path: Path,
        checkpoint: Literal["best", "last"] = "best",
        weights: Literal["raw", "average"] | None = None,
    ) -> None:
        self.path = path
        self._checkpoint, self._weights = checkpoint, weights

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @cached_property
    def trained(self) -> TrainedRun:
        """The opened checkpoint: model, tokenizer, weights."""
        from bptool.training.trained import open_run

        return open_run(self.path, self._checkpoint == "last", self._weights)

    @property
    def config(self) -> dict[str, Any]:
        """The whole configuration, as plain values."""
        return self.trained.config.model_dump(mode="json")

    @property
    def step(self) -> int:
        """The step of the checkpoint that is open."""
        return self.trained.step

    def metrics(self) -> list[dict[str, Any]]:
        """The records of ``metrics.jsonl``: steps and evaluations, in order."""
        from bptool.training.metrics import read_metrics
        from bptool.training.run_folder import RunFolder

        return list(read_metrics(RunFolder(self.path).metrics))

    def weights(self) -> dict[str, npt.NDArray[np.floating[Any]]]:
        """A copy of every weight tensor, by its name in checkpoints."""
        layout = self.trained.model.layout
        return {name: array.copy() for name, array in layout.named(self.trained.weights).items()}

    def generate(
        self,
        prompt: str = "",
        *,
        n: int = 1,
        max_tokens: int = 200,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> list[str]:
        """``n`` texts that go on from ``prompt``, which they do not repeat.

        Raises:
            BptoolError: the prompt has characters unknown to the tokenizer, or a value is out of
                its range.
        """
        from bptool.inference.sampling import Sampling
        from bptool.inference.writer import Writer

        sampling = Sampling(temperature, top_k, top_p, seed)
        with self._team() as team:
            trained = self.trained
            writer = Writer(trained.model, trained.params, team, trained.tokenizer)
            ids = writer.encode_prompt(prompt)
            texts = [""] * n
            for pieces in writer.write(ids, max_tokens, sampling, n, stop):
                texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
        return texts

    def evaluate(
        self,
        *,
        text: PathLike | Sequence[PathLike] = (),
        data: PathLike | Sequence[PathLike] = (),
    ) -> Measurement:
        """Loss (nats per token), perplexity and bits per byte over the run's validation split, or
        over the whole of ``text``, or over the answers of the records of ``data``."""
        from bptool.config.data_section import DataConfig
        from bptool.training.measure import measure

        records = DataConfig(text=_strings(data)) if data else None
        return measure(self.trained, _strings(text), records=records)

    def logprobs(self, text: str) -> npt.NDArray[np.floating[Any]]:
        """Log-probability (t - 1,) in nats of each token of ``text`` but the first, given those
        before it.

        Raises:
            BptoolError: the text has fewer than two tokens or more than the context.
        """
        import numpy as np

        from bptool.errors import DataError
        from bptool.training.token_shards import Rows, TokenShards

        trained = self.trained
        ids = trained.tokenizer.encode(text)
        if not 2 <= len(ids) <= trained.model.context + 1:
            raise DataError(
                f"the text has {len(ids):,} tokens; logprobs takes 2 to "
                f"{trained.model.context + 1:,}: give one of that length"
            )
        with self._team() as team:
            shards = TokenShards(
                trained.model, team, trained.engine, 1, len(ids) - 1, with_gradients=False
            )
            tokens = np.ascontiguousarray(ids[None, :-1], np.int32)
            targets = np.ascontiguousarray(ids[None, 1:], np.int32)
            return shards.outputs(trained.params, Rows(tokens, targets)).logp

    def chat(
        self, system: str = "", *, stop: Sequence[str] = (), plugins: Sequence[PathLike] = ()
    ) -> Conversation:
        """A conversation with the model.

        Raises:
            BptoolError: the run was not trained to answer and has no chat template.
        """
        _name_programs(plugins, self.path)
        return Conversation(self, system, stop)

    def _team(self) -> contextlib.AbstractContextManager[WorkerTeam]:
        from bptool.ops.cores import usable_cores
        from bptool.training.workers import WorkerTeam

        return WorkerTeam(usable_cores())


class Conversation:
    """Turns of a user and a model.

    Args:
        run: the model that answers. system: what stands before the turns, or nothing.
        stop: strings before which an answer ends.
    """

    def __init__(self, run: Run, system: str, stop: Sequence[str]) -> None:
        from bptool.errors import DataError

        if run.trained.chat_template is None:
            raise DataError(
                f"{run.path} was not trained to answer and has no chat template; teach it with "
                f"finetune({str(run.path)!r}, 'sft', data=...)"
            )
        self._run, self._system, self._stop = run, system, stop
        self._messages: list[Message] = []

    @property
    def messages(self) -> list[dict[str, str]]:
        """The turns so far, as records to fine-tune on have them."""
        return [{"role": m.role, "content": m.content} for m in self._messages]

    def say(
        self,
        text: str,
        *,
        max_tokens: int = 256,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> str:
        """What the model answers; both join the conversation. Where the context is full, the
        oldest turns are not shown to the model.

        Raises:
            BptoolError: not even this message fits into the context.
        """
        from bptool.inference.conversation import Conversation as Turns
        from bptool.inference.sampling import Sampling

        sampling = Sampling(temperature, top_k, top_p, seed)
        with self._run._team() as team:
            turns = Turns(_answerer(self._run.trained, team), self._system, self._stop)
            turns.messages = self._messages
            _, pieces = turns.say(text, max_tokens, sampling)
            for _ in pieces:
                pass
        self._messages = turns.messages
        return self._messages[-1].content


def _answerer(trained: TrainedRun, team: WorkerTeam) -> Answerer:
    from bptool.inference.answers import Answerer
    from bptool.registry import templates

    assert trained.chat_template is not None
    template = templates.get(trained.chat_template)()
    return Answerer(trained.model, trained.params, team, trained.tokenizer, template)


def gradcheck(
    config: PathLike | None = None,
    *,
    operations: bool = False,
    objective: str | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    plugins: Sequence[PathLike] = (),
) -> Findings:
    """Check gradients by central differences and Taylor tests, at float64.

    Args:
        config: the model of this configuration; None: a small GPT-2 of bptool's own.
        operations: check every operation, loss and regulariser alone as well.
        objective: check this objective of fine-tuning in place of the next-token loss.
        seed: of weights, batch and probes.

    Returns:
        What was found; its ``ok`` says whether every gradient is right, ``failures()`` which not.
    """
    from bptool.gradient_check import session

    _name_programs(plugins, config)
    found = session.Findings()

    def unwatched(what: str, done: int, total: int) -> None:
        pass

    if operations:
        session.check_operations(found, seed, unwatched)
    session.check_model(found, _path(config), _sets(settings), seed, unwatched, objective)
    return found


def compare_optimizers(
    config: PathLike | Sequence[PathLike],
    *,
    optimizers: Sequence[str] = (),
    steps: int | None = None,
    seeds: int | None = None,
    learning_rates: Mapping[str, float] | None = None,
    settings: Mapping[str, Any] | None = None,
    out: PathLike | None = None,
    plugins: Sequence[PathLike] = (),
    on_event: Callable[[StudyEvent], None] | None = None,
) -> dict[str, Any]:
    """Train the same models on the same batches with several optimizers and compare the losses.

    Args:
        config: a ``STUDY.yaml``, or one configuration or more.
        optimizers: names; by default those of the command line.
        steps: updates of each run. seeds: runs of each optimizer that are compared.
        learning_rates: rates by optimizer, in place of its own.
        out: folder of results and report; by default one in ``runs/``.
        on_event: called with each event of :mod:`bptool.comparison.events` as it happens.

    Returns:
        The report, as ``report.json`` in the folder has it.
    """
    from bptool.comparison.analysis import analyse
    from bptool.comparison.executors import ProcessExecutor
    from bptool.comparison.json_report import plain
    from bptool.comparison.pages import write_pages
    from bptool.comparison.request import Flags, settle
    from bptool.comparison.study import Study, n_processes

    sources = [Path(source) for source in _strings(config)]
    _name_programs(plugins, *sources)
    flags = Flags(
        optimizers=",".join(optimizers) or None,
        steps=steps,
        seeds=seeds,
        rates=[f"{name}={rate}" for name, rate in (learning_rates or {}).items()],
        sets=_sets(settings),
        plugins=[str(plugin) for plugin in plugins],
    )
    wanted = settle(sources, flags, _path(out))
    try:
        wanted.folder.create(wanted.plan, wanted.ground.about)
        executor = ProcessExecutor(n_processes(wanted.plan))
        study = Study(wanted.plan, wanted.ground, wanted.folder, executor)
        study.run([] if on_event is None else [on_event])
        analysis = analyse(wanted.plan, study.records, study.timings, wanted.ground.bigram_losses)
        report = plain(wanted.plan, analysis, len(study.records))
        write_pages(wanted.folder, wanted.plan, wanted.ground.about, analysis, report)
    finally:
        wanted.folder.release()
    return report


def _run(request: Request, on_event: OnEvent | None) -> Run:
    """Make the run that is asked for."""
    training = request.begin([] if on_event is None else [on_event])
    try:
        training.run()
    finally:
        training.pieces.close()
    return Run(request.folder.path)


def _name_programs(
    plugins: Sequence[PathLike],
    *places: PathLike | None,
    reward: PathLike | None = None,
    resumed: Path | None = None,
) -> None:
    """Let the programs that this call names run, and none that an earlier one named."""
    from bptool.recipes.programs import load_programs

    consent.forget()
    rules = None if reward is None else str(reward)
    load_programs([str(plugin) for plugin in plugins], *places, reward=rules, resumed=resumed)


def _strings(names: PathLike | Sequence[PathLike]) -> list[str]:
    return [str(names)] if isinstance(names, str | Path) else [str(name) for name in names]


def _path(name: PathLike | None) -> Path | None:
    return None if name is None else Path(name)


def _sets(settings: Mapping[str, Any] | None) -> list[str]:
    """Settings as the command line has them: JSON is YAML."""

    return [f"{key}={json.dumps(value)}" for key, value in (settings or {}).items()]
