"""What a worker process does: a job comes as JSON, and its report goes back as JSON.

A worker lives as long as the study, so that starting Python, loading kernels and reading texts is
paid for once. Nothing but JSON passes between processes, and nothing is unpickled by bptool.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any

from bptool.comparison.records import finite
from bptool.comparison.trial import run_trial, time_steps
from bptool.config.schema import RunConfig
from bptool.data.corpus import Corpus, prepare
from bptool.plugins import load_plugin
from bptool.training.events import Compiling, Event, StepDone
from bptool.training.setup import context_of

STEP_REPORT_SECONDS = 0.25

Job = dict[str, Any]
"""``name``, ``kind`` (trial or timing), ``config``, ``plugins``, and for a timing ``steps``."""
Report = dict[str, Any]
"""``name`` of the job and ``kind``: compiling, step, done (with ``outcome``), failed, lost."""

_corpora: dict[str, Corpus] = {}


def run_job(job: Job, say: Callable[[Report], None] | None = None) -> Report:
    """Do a job to its end. Errors become a ``failed`` report.

    Args:
        say: told of steps and of kernels being compiled.
    """
    name = job["name"]

    def tell(kind: str, **values: Any) -> None:
        if say is not None:
            say({"name": name, "kind": kind, **values})

    last_told = -STEP_REPORT_SECONDS

    def listener(event: Event) -> None:
        nonlocal last_told
        if isinstance(event, Compiling):
            done, seconds, cached = event.done, event.seconds, event.cached
            tell("compiling", done=done, seconds=seconds, cached=cached)
        elif isinstance(event, StepDone) and time.monotonic() - last_told >= STEP_REPORT_SECONDS:
            last_told = time.monotonic()
            tell("step", step=event.step, loss=finite(event.loss))

    try:
        for plugin in job["plugins"]:
            load_plugin(plugin)
        config = RunConfig.model_validate(job["config"])
        corpus = _corpus(config)
        if job["kind"] == "timing":
            outcome: dict[str, Any] = {"step_seconds": time_steps(config, corpus, job["steps"])}
        else:
            outcome = dataclasses.asdict(run_trial(config, corpus, listener))
    except Exception as error:  # whatever it is, the study goes on and its line says so
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return {"name": name, "kind": "failed", "error": text}
    return {"name": name, "kind": "done", "outcome": finite(outcome)}


def run_job_text(text: str) -> str:
    """:func:`run_job` from JSON to JSON; what other machines are asked to call."""
    return json.dumps(run_job(json.loads(text)))


def _corpus(config: RunConfig) -> Corpus:
    key = json.dumps([config.data.model_dump(mode="json"), context_of(config)], sort_keys=True)
    if key not in _corpora:
        _corpora[key] = prepare(config.data, context_of(config))
    return _corpora[key]
