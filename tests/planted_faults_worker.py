"""Runs the checks of one copy of the package, in a process of its own; see planted_faults.py.

Usage: planted_faults_worker.py FOLDER CHECK, where CHECK is ``operations``, ``models`` or
``training``. FOLDER holds the copy and turns.json, a list: each turn has the edited ``sources`` by
file, the ``names`` of the operations or models to check (none: all), and ``out``. Writes OUT.json,
the problems by name of check, and OUT.npz, the gradients.
"""

from __future__ import annotations

import ast
import json
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

PARENT, CHECK = Path(sys.argv[1]), sys.argv[2]
sys.path.insert(0, str(PARENT))

import bptool  # noqa: E402
from bptool import registry  # noqa: E402
from bptool.ops import jit  # noqa: E402

jit._OPTIONS["cache"] = False  # a cached kernel would hide a fault in what it calls

THROUGH = {"ppo through gpt2": "ppo", "mixed through gpt2": "mixed"}
"""Objectives that are checked through a model, by the name of the check."""
TERMS = {"label_smoothing": 0.1, "z_loss": 0.01}
wanted: set[str] = set()
problems: dict[str, list[str]] = {}
gradients: dict[str, Any] = {}


def imported_by(module: Any) -> set[str]:
    """Names of the modules of the package that ``module`` imports when it is imported."""
    names: set[str] = set()
    for node in ast.parse(Path(module.__file__).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def forget(files: Iterable[str]) -> None:
    """Drop the modules of ``files``, and all that import them, so that they are imported anew.

    Kernels of other modules stay compiled.
    """
    loaded = {n: m for n, m in sys.modules.items() if n.partition(".")[0] == "bptool"}
    imports = {name: imported_by(module) for name, module in loaded.items()}
    paths = {(PARENT / "bptool" / file).resolve() for file in files}
    stale = {name for name, module in loaded.items() if Path(module.__file__).resolve() in paths}
    while more := {name for name in loaded if imports[name] & stale} - stale:
        stale |= more
    for parts in vars(registry).values():
        if isinstance(parts, registry.Registry):
            for name in [n for n, part in parts._classes.items() if part.__module__ in stale]:
                del parts._classes[name]
                stale.add(parts.package)  # its import finds and registers what is missing
    for name in stale:
        parent, _, child = name.rpartition(".")
        sys.modules.pop(name, None)
        if parent in loaded:  # a package may have been forgotten before what it holds
            vars(loaded[parent]).pop(child, None)


def check_operations() -> None:
    from bptool.gradient_check.check import check
    from bptool.gradient_check.operations import EFFORT, cases

    for case in cases():
        if wanted and case.name not in wanted:
            continue
        function = case.make(np.random.default_rng(zlib.crc32(case.name.encode())))
        for name, g in function.gradients().items():
            gradients[f"{case.name}/{name}"] = np.array(g)
        problems[case.name] = check(function, effort=EFFORT).failures()


def check_models() -> None:
    from bptool.gradient_check.check import Effort, check
    from bptool.gradient_check.model import SETTINGS, model_function
    from bptool.gradient_check.objective_model import objective_function
    from bptool.ops.logit_terms import LogitTerms
    from bptool.registry import models

    for model, settings in SETTINGS.items():
        if wanted and model not in wanted:
            continue
        model_class = models.get(model)
        config = model_class.Config(**settings)
        function = model_function(model_class(config, 13), terms=LogitTerms(**TERMS))
        for name, g in function.gradients().items():
            gradients[f"{model}/{name}"] = g.copy()
        problems[model] = check(function, effort=Effort(4, 2)).failures()
    for check_name, objective in THROUGH.items():
        if wanted and check_name not in wanted:
            continue
        config = models.get("gpt2").Config(**SETTINGS["gpt2"], score_head=True)
        through = objective_function(models.get("gpt2")(config, 13), objective)
        for name, g in through.gradients().items():
            gradients[f"{check_name}/{name}"] = g.copy()
        problems[check_name] = check(through, effort=Effort(4, 2)).failures()


def check_training() -> None:
    """What ``bptool gradcheck CONFIG`` does for the program that trains."""
    from bptool.gradient_check import training as session
    from bptool.gradient_check.model import SETTINGS, model_function
    from bptool.training.setup import build

    text = PARENT / "text.txt"
    text.write_text("the cat sat on the mat, and the dog saw it. " * 20, encoding="utf-8")
    original = session.gradient_of

    def recording(step: Any, function: Any) -> Any:
        loss, gradient = original(step, function)
        gradients[f"batch {len(gradients)}"] = gradient.copy()
        return loss, gradient

    from bptool.config.load import resolve

    config = resolve(
        None,
        overrides={
            "model": {"name": "gpt2", **SETTINGS["gpt2"], "n_embd": 24},
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
        session.gradient_of = recording
        reports = session.compare_training(pieces, function, 0)
    finally:
        session.gradient_of = original
        pieces.close()
    problems[CHECK] = [line for report in reports for line in report.failures()]


def main() -> None:
    checks = {"operations": check_operations, "models": check_models, "training": check_training}
    for turn in json.loads((PARENT / "turns.json").read_text(encoding="utf-8")):
        wanted.update(turn["names"])
        before = {}
        for file, source in turn["sources"].items():
            path = PARENT / "bptool" / file
            before[path] = path.read_bytes()
            path.write_text(source, encoding="utf-8", newline="\n")
        forget(turn["sources"])
        sys.stdout.write(f"{Path(turn['out']).name}: {', '.join(turn['sources'])}\n")
        sys.stdout.flush()
        checks[CHECK]()
        out = Path(turn["out"])
        np.savez(out.with_suffix(".npz"), **gradients)
        out.with_suffix(".json").write_text(json.dumps(problems), encoding="utf-8")
        for path, content in before.items():
            path.write_bytes(content)
        forget(turn["sources"])
        for collected in (wanted, problems, gradients):
            collected.clear()


if __name__ == "__main__":
    assert Path(bptool.__file__).resolve().is_relative_to(PARENT.resolve()), bptool.__file__
    main()
