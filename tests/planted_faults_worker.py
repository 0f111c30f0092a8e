"""Runs the checks of one copy of the package, in a process of its own; see planted_faults.py.

Usage: planted_faults_worker.py PACKAGE_PARENT CHECK OUT [NAME ...], where CHECK is ``operations``,
``models`` or ``training``; with names, of the operations or models, only those are checked. Writes
OUT.json, the problems by name of check, and OUT.npz, the gradients.
"""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

PARENT, CHECK, OUT = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
WANTED = set(sys.argv[4:])
sys.path.insert(0, str(PARENT))

import bptool  # noqa: E402

MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"window": 3, "n_embd": 3, "n_hidden": 5, "n_layer": 3, "context": 5, "dropout": 0.2},
    "gpt2": {
        **{"n_layer": 2, "n_head": 2, "n_embd": 8, "context": 5},
        "dropout": {"embedding": 0.2, "attention": 0.2, "residual": 0.2, "hidden": 0.3},
        "stochastic_depth": {"rate": 0.5, "rule": "uniform"},
    },
}
TERMS = {"label_smoothing": 0.1, "z_loss": 0.01}
problems: dict[str, list[str]] = {}
gradients: dict[str, Any] = {}


def check_operations() -> None:
    from bptool.gradcheck.check import check
    from bptool.gradcheck.operations import EFFORT, cases

    for case in cases():
        if WANTED and case.name not in WANTED:
            continue
        function = case.make(np.random.default_rng(zlib.crc32(case.name.encode())))
        for name, g in function.gradients().items():
            gradients[f"{case.name}/{name}"] = np.array(g)
        problems[case.name] = check(function, effort=EFFORT).failures()


def check_models() -> None:
    from bptool.gradcheck.check import Effort, check
    from bptool.gradcheck.model import model_function
    from bptool.ops.logit_terms import LogitTerms
    from bptool.registry import models

    for model, settings in MODELS.items():
        if WANTED and model not in WANTED:
            continue
        model_class = models.get(model)
        config = model_class.Config(**settings)
        function = model_function(model_class(config, 7), terms=LogitTerms(**TERMS))
        for name, g in function.gradients().items():
            gradients[f"{model}/{name}"] = g.copy()
        problems[model] = check(function, effort=Effort(4, 2)).failures()


def check_training() -> None:
    """What ``bptool gradcheck CONFIG`` does for the program that trains."""
    from bptool.cli import gradcheck_session as session
    from bptool.gradcheck.model import model_function
    from bptool.training.setup import build

    text = OUT.with_suffix(".txt")
    text.write_text("the cat sat on the mat, and the dog saw it. " * 20, encoding="utf-8")
    original = session.gradient_of

    def recording(step: Any, function: Any) -> Any:
        loss, gradient = original(step, function)
        gradients[f"batch {len(gradients)}"] = gradient.copy()
        return loss, gradient

    session.gradient_of = recording
    from bptool.config.load import resolve

    config = resolve(
        None,
        overrides={
            "model": {"name": "gpt2", **MODELS["gpt2"], "n_embd": 24},
            "data": {"text": [str(text)]},
            "training": {
                **{"steps": 1, "batch_size": 8, "micro_batch_size": 4, "workers": 2},
                **TERMS,
            },
            "regularizers": [{"name": "l2", "strength": 0.01}],
        },
    ).config
    pieces = build(config)
    try:
        function = model_function(
            pieces.model,
            regularizers=pieces.step.regularizers,
            terms=pieces.step.shards.terms,
        )
        reports = session.compare_training(pieces, function, 0)
    finally:
        pieces.close()
    problems[CHECK] = [line for report in reports for line in report.failures()]


if __name__ == "__main__":
    assert Path(bptool.__file__).resolve().is_relative_to(PARENT.resolve()), bptool.__file__
    checks = {
        "operations": check_operations,
        "models": check_models,
        "training": check_training,
    }
    checks[CHECK]()
    np.savez(OUT.with_suffix(".npz"), **gradients)
    OUT.with_suffix(".json").write_text(json.dumps(problems), encoding="utf-8")
