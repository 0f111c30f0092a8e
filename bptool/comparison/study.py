"""A study: every optimizer with every seed, one trial after another.

Within a seed all optimizers begin at the same weights, see the same batches and drop the same
units out, so that differences between optimizers are paired. Trials go seed by seed: whatever
slows the machine for a while slows every optimizer, and a study that is stopped has whole seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bptool.comparison.events import (
    Event,
    Listener,
    StudyStarted,
    TrialFinished,
    TrialStarted,
    TrialStep,
)
from bptool.comparison.settings import choose
from bptool.comparison.trial import Outcome, Trial, run_trial
from bptool.config.schema import MAX_SEED, RunConfig
from bptool.data.corpus import Corpus, prepare
from bptool.errors import ConfigError
from bptool.training.events import Compiling
from bptool.training.machine import choose_engine
from bptool.training.manifest import describe
from bptool.training.setup import Sizes, build, build_model, context_of, sizes


def plan(
    config: RunConfig, names: Sequence[str], n_seeds: int, rates: Mapping[str, float]
) -> tuple[Trial, ...]:
    """The trials of a study, in the order they run.

    Args:
        config: what they share; its ``training.seed`` and ``data_seed`` are the first pair of
            seeds, and each further pair is one higher. names: the optimizers.
        n_seeds: pairs of seeds. rates: learning rates that the user chose, by optimizer.

    Raises:
        ConfigError: a setting is out of bounds, or the seeds are.
    """
    training = config.training
    if max(training.seed, training.data_seed) + n_seeds - 1 > MAX_SEED:
        raise ConfigError(f"{n_seeds} seeds from {training.seed} on pass {MAX_SEED}; begin lower")
    chosen = [choose(name, config, rates) for name in names]
    trials = []
    for k in range(n_seeds):
        seeds = {"seed": training.seed + k, "data_seed": training.data_seed + k}
        paired = training.model_copy(update=seeds)
        for choice in chosen:
            update = {"optimizer": choice, "training": paired}
            trials.append(Trial(config.model_copy(update=update)))
    return tuple(trials)


class Study:
    """Trials on one corpus, checked and ready to run.

    Args:
        trials: of one model and one text. progress: told how far preparing the text is.

    Attributes:
        trials: with ``training.workers``, ``split`` and ``engine`` set to what this machine gives,
            so that a trial's configuration alone says how its sums are ordered.
        about: what the results depend on besides the configurations, as a run's manifest.

    Raises:
        UserError: any setting or file is unfit; nothing has run then.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        first = trials[0].config
        self.corpus: Corpus = prepare(first.data, context_of(first), progress)
        model = build_model(first, self.corpus.tokenizer.vocab_size)
        plans = [sizes(trial.config, model, self.corpus.n_train) for trial in trials]
        engine = choose_engine(first.training.engine).name
        self.trials = tuple(
            _pinned(trial, plan, engine) for trial, plan in zip(trials, plans, strict=True)
        )
        pieces = build(self.trials[0].config, self.corpus)
        try:
            self.about: dict[str, Any] = describe(pieces)
            self.started = StudyStarted(
                trials=self.trials,
                n_parameters=pieces.model.n_parameters,
                n_train_tokens=self.corpus.n_train,
                n_validation_tokens=self.corpus.n_validation,
                tokens_per_step=pieces.batches.n_sequences * pieces.sizes.n_time,
                n_workers=pieces.team.n,
                engine=pieces.engine.name,
            )
        finally:
            pieces.close()
        self._stop = False

    def request_stop(self) -> None:
        """Finish the step at hand, drop the trial that is running, and return from :meth:`run`."""
        self._stop = True

    def run(self, listeners: Sequence[Listener] = ()) -> list[Outcome]:
        """Run the trials; returns the outcomes of those that ended, diverged ones among them."""

        def emit(event: Event) -> None:
            for listener in listeners:
                listener(event)

        def say_compiling(done: bool, seconds: float, cached: bool) -> None:
            emit(Compiling(f"kernels for {trial.optimizer}", done, seconds, cached))

        emit(self.started)
        outcomes: list[Outcome] = []
        for number, trial in enumerate(self.trials, 1):
            if self._stop:
                break
            emit(TrialStarted(number, trial))
            outcome = run_trial(
                trial,
                self.corpus,
                on_step=lambda step, loss: emit(TrialStep(step, loss)),
                on_compiling=say_compiling,
                stop=lambda: self._stop,
            )
            if outcome.status != "interrupted":
                outcomes.append(outcome)
                emit(TrialFinished(outcome))
        return outcomes


def _pinned(trial: Trial, plan: Sizes, engine: str) -> Trial:
    update = {"workers": plan.n_workers, "split": plan.split, "engine": engine}
    training = trial.config.training.model_copy(update=update)
    return Trial(trial.config.model_copy(update={"training": training}))
