"""Proof that a run of one's own configuration resumes exactly: steps in one go, and the same steps
stopped and gone on with, compared bit for bit."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bptool.config.schema import RunConfig
from bptool.errors import ConfigError
from bptool.training.begin import resume_run, start_run
from bptool.training.events import Event, StepDone
from bptool.training.run import Training
from bptool.training.run_difference import Difference, compare_results
from bptool.training.run_folder import RunFolder

WINDOWS_JUDGED = 16
SAMPLE_TOKENS = 16


class Verified(NamedTuple):
    """A run that was stopped after ``stops`` and gone on with each time."""

    stops: tuple[int, ...]
    differences: list[Difference]
    """From the run in one go; none where every bit is the same."""


def default_stops(n_steps: int) -> list[tuple[int, ...]]:
    """Once in the first half, once in the second, before the last step, and after every step."""
    once = sorted({max(1, n_steps // 3), n_steps // 2 + 1, n_steps - 1})
    return [*((step,) for step in once if step < n_steps), tuple(range(1, n_steps))]


def verify_resume(
    config: RunConfig, n_steps: int, stops: Sequence[tuple[int, ...]]
) -> Iterator[Verified]:
    """Train ``n_steps`` of ``config`` in one go, and again for each entry of ``stops``, in a
    temporary folder. What is evaluated and sampled is cut short.

    Raises:
        UserError: the configuration or its text is unfit.
    """
    if not 2 <= n_steps <= config.training.steps:
        raise ConfigError(
            f"verifying {n_steps} steps needs at least 2 and at most training.steps, "
            f"{config.training.steps}; choose another --steps"
        )
    for step in {step for one in stops for step in one}:
        if not 0 < step < n_steps:
            raise ConfigError(f"a stop after step {step} is not within the {n_steps} steps")
    short = shortened(config, n_steps)
    with tempfile.TemporaryDirectory(prefix="bptool-verify-") as name:
        whole = RunFolder(Path(name) / "whole")
        _train(start_run, short, whole, n_steps)
        for number, one in enumerate(stops):
            folder = RunFolder(Path(name) / f"stopped-{number}")
            begin: Callable[..., Training] = start_run
            for step in (*one, n_steps):
                _train(begin, short, folder, step)
                begin = resume_run
            yield Verified(one, list(compare_results(whole, folder)))


def shortened(config: RunConfig, n_steps: int) -> RunConfig:
    """The same training with evaluations and checkpoints in its first ``n_steps``, and short ones;
    neither changes a bit of the weights."""
    training, sample = config.training, config.sample
    judged = WINDOWS_JUDGED * int(config.model.config.context)
    changed = training.model_copy(
        update={
            "eval_interval": min(training.eval_interval, max(1, n_steps // 2)),
            "checkpoint_interval": min(training.checkpoint_interval, max(1, n_steps // 3)),
            "eval_tokens": min(training.eval_tokens or judged, judged),
        }
    )
    cut = sample.model_copy(update={"max_tokens": min(sample.max_tokens, SAMPLE_TOKENS)})
    return config.model_copy(update={"training": changed, "sample": cut})


def _train(begin: Callable[..., Training], config: RunConfig, folder: RunFolder, last: int) -> None:
    """Train until step ``last`` is done."""
    training: Training | None = None

    def stop(event: Event) -> None:
        if isinstance(event, StepDone) and event.step >= last and training is not None:
            training.request_stop()

    training = begin(config, folder, [stop])
    try:
        training.run()
    finally:
        training.pieces.close()
