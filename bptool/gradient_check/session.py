"""A whole check: operations alone, the model of a configuration, and the program that trains it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bptool.config.schema import RunConfig
    from bptool.gradient_check.model import ModelFunction
    from bptool.gradient_check.report import Report
    from bptool.gradient_check.training_path import PathReport

Watch = Callable[[str, int, int], None]
"""Called with what is being checked, how much of it is done, and how much there is."""


@dataclass
class Findings:
    """Everything that was checked."""

    operations: list[Report] = field(default_factory=list)
    model: Report | None = None
    training: list[PathReport] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    """How the model was checked: parameters, engine, workers, sequences."""

    @property
    def reports(self) -> list[Report]:
        """Every finite-difference report."""
        return [*self.operations, *([self.model] if self.model is not None else [])]

    @property
    def ok(self) -> bool:
        return all(r.ok for r in self.reports) and all(r.ok for r in self.training)

    def failures(self) -> list[str]:
        """Every problem, one line each."""
        lines = [line for report in self.reports for line in report.failures()]
        return lines + [line for report in self.training for line in report.failures()]

    def to_json(self) -> dict[str, Any]:
        """One object for ``--json``."""
        return {
            "ok": self.ok,
            "failures": self.failures(),
            **self.facts,
            "operations": [r.to_json() for r in self.operations],
            "model": self.model.to_json() if self.model is not None else None,
            "training": [r.to_json() for r in self.training],
        }


def check_operations(found: Findings, seed: int, watch: Watch) -> None:
    """Every operation, activation, loss and regulariser alone."""
    from bptool.gradient_check import operations

    total = len(list(operations.cases()))

    def heard(report: Report) -> None:
        found.operations.append(report)
        watch(report.name, len(found.operations), total)

    operations.check_operations(seed=seed, on_report=heard)


def configured(path: Path | None, sets: Sequence[str], objective: str | None) -> RunConfig:
    """The configuration to check, with a scalar head where the objective needs one; without a file
    that of a small GPT-2 on a text of one sentence."""
    from bptool.config.load import resolve
    from bptool.data.cache import cache_folder
    from bptool.files import write_text
    from bptool.gradient_check.model import SETTINGS
    from bptool.gradient_check.objectives import checked_objective
    from bptool.training.small_run import TEXT

    defaults = None
    if path is None:
        text = cache_folder("texts") / "gradcheck.txt"
        write_text(text, 40 * TEXT)
        defaults = {
            "model": {"name": "gpt2", **SETTINGS["gpt2"]},
            "training": {"steps": 1, "batch_size": 4, "workers": 2},
            "data": {"text": [str(text)]},
        }
    label = "of the small model that is checked"
    config = resolve(path, sets, defaults=defaults, defaults_label=label).config
    if objective is not None and checked_objective(objective).of_scores:
        if "score_head" in type(config.model.config).model_fields:
            scored = [*sets, "model.score_head=true"]
            config = resolve(path, scored, defaults=defaults, defaults_label=label).config
    return config


def check_model(
    found: Findings,
    path: Path | None,
    sets: Sequence[str],
    seed: int,
    watch: Watch,
    objective: str | None = None,
) -> None:
    """The model of a configuration by finite differences, then the program that trains it; its
    next-token loss, or an ``objective`` of fine-tuning."""
    from threadpoolctl import threadpool_limits

    from bptool.gradient_check.check import check
    from bptool.gradient_check.model import effort_for, model_function
    from bptool.gradient_check.objective_model import ObjectiveFunction, objective_function
    from bptool.gradient_check.training import compare_objective, compare_training
    from bptool.training.setup import build

    pieces = build(configured(path, sets, objective))
    # The products of a check are small: threads of the BLAS would only wait for each other.
    one_thread = threadpool_limits(1, user_api="blas")
    try:
        function: ModelFunction
        step = pieces.step
        if objective is None:
            terms = step.shards.terms
            function = model_function(
                pieces.model, seed=seed, regularizers=step.regularizers, terms=terms
            )
        else:
            function = objective_function(
                pieces.model, objective, seed=seed, regularizers=step.regularizers
            )
        done: list[str] = []

        def heard(tensor: Any) -> None:
            done.append(tensor.name)
            watch(tensor.name, len(done), len(function.inputs))

        watch("compiling for float64", 0, len(function.inputs))
        found.model = check(function, seed=seed, effort=effort_for(function), on_tensor=heard)
        watch("the training gradient", len(done), len(done))
        if isinstance(function, ObjectiveFunction):
            found.training = compare_objective(pieces, function)
        else:
            found.training = compare_training(pieces, function, seed)
        found.facts = {
            "name": pieces.model.name,
            "n_parameters": pieces.model.n_parameters,
            "n_vocab": pieces.model.n_vocab,
            "engine": pieces.engine.name,
            "engine_version": pieces.engine.version,
            "n_workers": pieces.sizes.n_workers,
            "n_sequences": len(function.tokens),
            "n_time": function.tokens.shape[1],
        }
    finally:
        one_thread.restore_original_limits()
        pieces.close()
