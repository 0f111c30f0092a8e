"""What a study stands on: every workload built once, and every optimizer on it, before any runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from bptool.comparison.budget import resolve_at
from bptool.comparison.events import WorkloadSize
from bptool.comparison.plan import Plan, Workload, make_trial
from bptool.config.load import StudyFile
from bptool.config.report import problems_of
from bptool.config.schema import RunConfig
from bptool.config.study_section import workload_names
from bptool.data.bigram import bigram_loss
from bptool.data.corpus import Corpus, prepare
from bptool.errors import ConfigError, RunError, UserError
from bptool.training.machine import choose_engine
from bptool.training.manifest import describe, differences
from bptool.training.parts import build_model
from bptool.training.setup import build, context_of, sizes


@dataclass
class Ground:
    """The workloads of a study as its trials will find them."""

    workloads: tuple[Workload, ...]
    """With workers and engine pinned, so that a configuration alone says how sums are ordered."""
    sizes: dict[str, WorkloadSize]
    corpora: dict[str, Corpus]
    about: dict[str, Any]
    """Versions and machine, and each workload's manifest."""
    scaled: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)
    """By workload, what was fitted to the steps: key -> value in the file, value now."""

    @property
    def bigram_losses(self) -> dict[str, float]:
        """By workload; see :class:`WorkloadSize`."""
        return {name: size.bigram_loss for name, size in self.sizes.items()}


def survey(
    file: StudyFile,
    sets: Sequence[str] = (),
    overrides: dict[str, Any] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Ground:
    """Resolve a study's workloads, and build each as its trials will.

    Args:
        sets, overrides: changes to every workload, as :func:`bptool.config.load.resolve` takes
            them. progress: told how far preparing the texts is.

    Raises:
        UserError: a workload cannot run; the message names its line in the study.
    """
    found: list[Workload] = []
    scaled = {}
    study = file.config
    for index, name in enumerate(workload_names(study.workloads)):
        workload = study.workloads[index]
        merged = _merge(workload.set, overrides or {})
        try:
            budgeted = resolve_at(workload.config, sets, merged, study.steps)
        except UserError as error:
            raise _blamed(file, index, name, error) from None
        found.append(Workload(name, budgeted.config, workload.target))
        scaled[name] = budgeted.scaled
    return _built(found, lambda i, name, error: _blamed(file, i, name, error), scaled, progress)


def survey_again(plan: Plan, about: dict[str, Any]) -> tuple[Ground, list[str]]:
    """Build a kept study's workloads anew; also what differs from when it began.

    Raises:
        UserError: a workload cannot run any more, or its text is another one.
    """
    ground = _built(plan.workloads, lambda i, name, error: error, {}, None)
    notes = []
    for workload in plan.workloads:
        before, now = about["manifests"][workload.name], ground.about["manifests"][workload.name]
        if before["data"]["text_sha256"] != now["data"]["text_sha256"]:
            raise RunError(
                f"workload {workload.name}: the text has changed since the study began; bring the "
                "old text back, or begin a new study"
            )
        notes += [note for note in differences(before, now) if note not in notes]
    return ground, notes


def try_each(plan: Plan, ground: Ground) -> None:
    """Build a trial of every optimizer on every workload, so that none fails after hours.

    Raises:
        ConfigError: a setting or schedule does not fit the model or the steps.
    """
    for workload in plan.workloads:
        for name in plan.study.optimizers:
            config = make_trial(plan, "final", workload, name, 0, 0).config
            raw = config.model_dump(mode="json")
            try:
                checked = RunConfig.model_validate(raw)
                build(checked, ground.corpora[workload.name]).close()
            except ValidationError as error:
                problem = problems_of(error, raw, RunConfig)[0]
                key = ".".join(map(str, problem.path))
                raise _unfit(name, workload.name, f"{key}: {problem.message}") from None
            except UserError as error:
                raise _unfit(name, workload.name, str(error)) from None


def _unfit(optimizer: str, workload: str, message: str) -> ConfigError:
    text = "; ".join(message.splitlines())
    return ConfigError(f"optimizer '{optimizer}' cannot run on workload '{workload}': {text}")


def _built(
    workloads: Iterable[Workload],
    blame: Callable[[int, str, UserError], UserError],
    scaled: dict[str, dict[str, tuple[int, int]]],
    progress: Callable[[str, int, int], None] | None,
) -> Ground:
    ground = Ground((), {}, {}, {"manifests": {}}, scaled)
    pinned = []
    for index, workload in enumerate(workloads):
        name = workload.name
        try:
            corpus = prepare(workload.config.data, context_of(workload.config), progress)
            config = _pinned(workload.config, corpus)
            ground.sizes[name], ground.about["manifests"][name] = _measured(config, corpus)
        except UserError as error:
            raise blame(index, name, error) from None
        ground.corpora[name] = corpus
        pinned.append(Workload(name, config, workload.target))
    ground.workloads = tuple(pinned)
    return ground


def _pinned(config: RunConfig, corpus: Corpus) -> RunConfig:
    training = config.training
    if training.workers == "auto":
        training = training.model_copy(update={"workers": 1})
    engine = choose_engine(training.engine).name
    training = training.model_copy(update={"engine": engine})
    config = config.model_copy(update={"training": training})
    layout = sizes(config, build_model(config, corpus.tokenizer.vocab_size), corpus.n_train)
    training = training.model_copy(update={"workers": layout.n_workers})
    return config.model_copy(update={"training": training})


def _measured(config: RunConfig, corpus: Corpus) -> tuple[WorkloadSize, dict[str, Any]]:
    """A workload's numbers and its manifest."""
    n_read = config.training.eval_tokens
    validation = corpus.validation[: None if n_read is None else n_read + 1]
    pieces = build(config, corpus)
    try:
        size = WorkloadSize(
            n_parameters=pieces.model.n_parameters,
            n_train_tokens=corpus.n_train,
            n_validation_tokens=corpus.n_validation,
            tokens_per_step=pieces.batches.n_sequences * pieces.sizes.n_time,
            n_workers=pieces.team.n,
            bigram_loss=bigram_loss(corpus.train, validation, corpus.tokenizer.vocab_size),
        )
        return size, describe(pieces)
    finally:
        pieces.close()


def _merge(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    merged = dict(low)
    for key, value in high.items():
        old = merged.get(key)
        both = isinstance(value, dict) and isinstance(old, dict)
        merged[key] = _merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _blamed(file: StudyFile, index: int, name: str, error: UserError) -> UserError:
    text = "; ".join(str(error).splitlines())
    place = file.places(("workloads", index))
    if place.startswith("command line"):
        return error
    return ConfigError(f"{place}: workload '{name}' cannot run: {text}")
