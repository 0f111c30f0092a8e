"""Plants faults in every backward, one at a time, and demands that the gradient checks report them.

    python -m benchmarks.reliability.planted_faults [--journal FILE] [--hours H] [--seed S]
                                                    [--only TEXT] [--processes N]

Faults are made from the syntax tree of each backward: a sign, a scale, a dropped term, a swapped or
shifted index, a range that ends early, a flag or a condition the other way round, ``+=`` for ``=``,
a call that is skipped, arguments that have changed places. A new operation is covered without an
entry here. A fault in an operation is judged by the checks of that operation, one in a model by the
models that call it, and one in the reduction, or in what a team of threads does together, by the
comparison with the program that trains.

Each fault runs in a process of its own with bounds checks and a time limit; one that dies, hangs or
does not compile is reported. A fault that no check reports counts as equivalent only if the float64
gradients are those of the original on ``N_INPUTS`` random inputs (``N_BATCHES`` where the program
that trains is the judge). What is left over survived: a
hole in the checks. The journal holds a line for each fault; a sweep that was stopped goes on from
it. Faults are taken in a random order, so that a sweep that ends early is a fair sample, and the
share that was tried is printed.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.machinery
import importlib.util
import json
import multiprocessing
import os
import random
import sys
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np
import platformdirs

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "bptool"
N_INPUTS = 1000
N_BATCHES = 20
SECONDS = 300.0
"""A fault may take; then it counts as reported, since a loop without end is seen by anyone."""
SAME = 1e-12
"""Relative difference up to which gradients are the same but for rounding."""
SETTINGS = {
    "NUMBA_OPT": "0",  # compiles twice as fast; the mathematics is the same
    "NUMBA_BOUNDSCHECK": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
KINDS = (
    "sign", "scale", "dropped term", "index", "off by one", "flag", "accumulation", "skipped call",
    "wrong array",
)  # fmt: skip
NO_EFFECT = ("barrier",)
"""Calls that matter to several threads only; a check has one."""
REDUCTION = ("ops/reduction.py", "training/step.py")


# --- faults -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """A change of one function.

    Attributes:
        file: of the package. function: its name, after its class where it is a method.
        kind: one of ``KINDS``. line: in the file. number: among the faults of the function.
        change: what was there and what is there now.
    """

    file: str
    function: str
    kind: str
    line: int
    number: int
    change: str

    @property
    def name(self) -> str:
        return f"{self.file}:{self.line} {self.function} #{self.number} {self.kind}: {self.change}"


Edit = Callable[[], None]


def _short(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _statement_edits(body: list[ast.stmt]) -> Iterator[tuple[str, int, str, Edit]]:
    """Changes of whole statements."""
    for index, statement in enumerate(body):
        for inner in ("body", "orelse"):
            if isinstance(statement, ast.For | ast.While | ast.If | ast.With):
                yield from _statement_edits(getattr(statement, inner, []))
        line, was = statement.lineno, _short(statement)

        def put(new: ast.stmt, index: int = index) -> Edit:
            return partial(body.__setitem__, index, new)

        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            called = statement.value.func
            if getattr(called, "id", getattr(called, "attr", "")) not in NO_EFFECT:
                yield "skipped call", line, f"{was} -> pass", put(ast.Pass())
        if isinstance(statement, ast.Assign | ast.AugAssign):
            target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
            if isinstance(target, ast.Tuple):
                continue
            for kind, value in (
                ("sign", ast.UnaryOp(ast.USub(), statement.value)),
                ("scale", ast.BinOp(ast.Constant(2), ast.Mult(), statement.value)),
            ):
                new = copy.copy(statement)
                new.value = value
                yield kind, line, f"{was} -> {_short(value)}", put(new)
            if isinstance(target, ast.Subscript):
                other: ast.stmt = (
                    ast.AugAssign(target, ast.Add(), statement.value)
                    if isinstance(statement, ast.Assign)
                    else ast.Assign([target], statement.value)
                )
                other = ast.copy_location(other, statement)
                yield "accumulation", line, f"{was} -> {_short(other)}", put(other)


def _replace(owner: ast.AST, field: str, index: int | None, new: ast.AST) -> Edit:
    if index is None:
        return partial(setattr, owner, field, new)
    return partial(getattr(owner, field).__setitem__, index, new)


def _expression_edits(function: ast.AST) -> Iterator[tuple[str, int, str, Edit]]:
    """Changes inside expressions."""
    for owner in ast.walk(function):
        if isinstance(owner, ast.If):
            new = ast.UnaryOp(ast.Not(), owner.test)
            change = f"if {_short(owner.test)} -> if {_short(new)}"
            yield "flag", owner.lineno, change, _replace(owner, "test", None, new)
        if isinstance(owner, ast.Call):
            yield from _argument_edits(owner)
        for field, value in ast.iter_fields(owner):
            if field in ("decorator_list", "annotation", "returns", "args") and isinstance(
                owner, ast.FunctionDef
            ):
                continue
            values = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
            for index, node in values:
                if isinstance(node, ast.expr):
                    for kind, new in _other_expressions(node):
                        change = f"{_short(node)} -> {_short(new)}"
                        yield kind, node.lineno, change, _replace(owner, field, index, new)


def _argument_edits(call: ast.Call) -> Iterator[tuple[str, int, str, Edit]]:
    """Neighbouring arguments that change places; a range that ends early."""
    if isinstance(call.func, ast.Name) and call.func.id == "range" and call.args:
        last = len(call.args) - 1 if len(call.args) < 3 else 1
        new = ast.BinOp(call.args[last], ast.Sub(), ast.Constant(1))
        change = f"{_short(call)} -> to {_short(new)}"
        yield "off by one", call.lineno, change, _replace(call, "args", last, new)
        return
    plain = ast.Name | ast.Attribute | ast.Subscript
    for index, (a, b) in enumerate(zip(call.args, call.args[1:], strict=False)):
        if isinstance(a, plain) and isinstance(b, plain) and ast.dump(a) != ast.dump(b):
            args = list(call.args)
            args[index], args[index + 1] = b, a
            change = f"{_short(a)} and {_short(b)} change places"
            yield "wrong array", call.lineno, change, partial(setattr, call, "args", args)


def _other_expressions(node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        yield "sign", ast.BinOp(node.left, op, node.right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div):
        yield "dropped term", node.left
        if isinstance(node.op, ast.Add | ast.Mult):
            yield "dropped term", node.right
    if isinstance(node, ast.Subscript):
        inner = node.slice
        if isinstance(inner, ast.Tuple) and len(inner.elts) > 1:
            first, second, *rest = inner.elts
            if ast.dump(first) != ast.dump(second):
                swapped = ast.Tuple([second, first, *rest], ast.Load())
                yield "index", ast.Subscript(node.value, swapped, node.ctx)
        if isinstance(inner, ast.Name):
            before = ast.BinOp(inner, ast.Sub(), ast.Constant(1))
            yield "index", ast.Subscript(node.value, before, node.ctx)
        if isinstance(inner, ast.Slice) and inner.upper is not None:
            upper = ast.BinOp(inner.upper, ast.Sub(), ast.Constant(1))
            shorter = ast.Slice(inner.lower, upper, inner.step)
            yield "off by one", ast.Subscript(node.value, shorter, node.ctx)
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield "flag", ast.Constant(not node.value)


def functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    """The functions and methods of a module by name."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    yield f"{node.name}.{inner.name}", inner


def edits(function: ast.FunctionDef) -> list[tuple[str, int, str, Edit]]:
    """Every change of a function; each may be made once, in a tree of its own."""
    return [*_statement_edits(function.body), *_expression_edits(function)]


def faults_of(file: str, name: str) -> list[Fault]:
    """Every fault of one function."""
    function = dict(functions(_tree(file)))[name]
    return [
        Fault(file, name, kind, line, number, change)
        for number, (kind, line, change, _) in enumerate(edits(function))
    ]


def planted(fault: Fault) -> str:
    """The source of a file with the fault in it."""
    tree = _tree(fault.file)
    function = dict(functions(tree))[fault.function]
    edits(function)[fault.number][3]()
    return ast.unparse(ast.fix_missing_locations(tree))


def _tree(file: str) -> ast.Module:
    return ast.parse((PACKAGE / file).read_text(encoding="utf-8"))


# --- what judges them -------------------------------------------------------------------------


@dataclass(frozen=True)
class Judge:
    """A gradient that can be checked: problems that the check finds, and gradients by seed."""

    name: str
    check: Callable[[], list[str]]
    gradients: Callable[[int], Iterable[np.ndarray[Any, Any]]]
    n_inputs: int = N_INPUTS


def _operation_judge(name: str) -> Judge:
    def function(seed: int) -> Any:
        from bptool.gradient_check.operations import cases

        case = next(case for case in cases() if case.name == name)
        return case.make(np.random.default_rng([zlib.crc32(name.encode()), seed]))

    def problems() -> list[str]:
        from bptool.gradient_check.check import check
        from bptool.gradient_check.operations import EFFORT

        return check(function(0), effort=EFFORT).failures()

    return Judge(name, problems, lambda seed: function(seed).gradients().values())


def _model_judge(name: str, objective: str | None) -> Judge:
    def function(seed: int) -> Any:
        from bptool.gradient_check.model import SETTINGS as MODELS
        from bptool.gradient_check.model import model_function
        from bptool.gradient_check.objective_model import objective_function
        from bptool.ops.logit_terms import LogitTerms
        from bptool.registry import models

        settings = dict(MODELS[name])
        if objective is None:
            model = models.get(name)(models.get(name).Config(**settings), 13)
            return model_function(model, seed=seed, terms=LogitTerms(0.1, 0.02))
        model = models.get(name)(models.get(name).Config(**settings, score_head=True), 13)
        return objective_function(model, objective, seed=seed)

    def problems() -> list[str]:
        from bptool.gradient_check.check import Effort, check

        return check(function(0), effort=Effort(4, 2)).failures()

    title = name if objective is None else f"{objective} through {name}"
    return Judge(title, problems, lambda seed: function(seed).gradients().values())


def _training_judge(model: str) -> Judge:
    def compared(seed: int) -> tuple[list[str], list[np.ndarray[Any, Any]]]:
        from bptool.config.load import resolve
        from bptool.gradient_check import training
        from bptool.gradient_check.model import SETTINGS as MODELS
        from bptool.gradient_check.model import model_function
        from bptool.training.setup import build

        text = Path(os.environ["BPTOOL_CACHE_DIR"]) / "text.txt"
        text.write_text("the cat sat on the mat, and the dog saw it. " * 20, encoding="utf-8")
        steps = {"steps": 1, "batch_size": 8, "micro_batch_size": 4, "workers": 2}
        terms = {"label_smoothing": 0.1, "z_loss": 0.02}
        overrides = {
            "model": {"name": model, **MODELS[model]},
            "data": {"text": [str(text)]},
            "training": {**steps, **terms},
            "regularizers": [{"name": "l2", "strength": 0.01}],
        }
        gradients: list[np.ndarray[Any, Any]] = []
        original = training.gradient_of

        def recording(step: Any, function: Any) -> Any:
            loss, gradient = original(step, function)
            gradients.append(gradient.copy())
            return loss, gradient

        pieces = build(resolve(None, overrides=overrides).config)
        training.gradient_of = recording
        try:
            step = pieces.step
            function = model_function(
                pieces.model, seed=seed, regularizers=step.regularizers, terms=step.shards.terms
            )
            reports = training.compare_training(pieces, function, seed)
        finally:
            training.gradient_of = original
            pieces.close()
        return [line for report in reports for line in report.failures()], gradients

    title = f"training {model}"
    return Judge(title, lambda: compared(0)[0], lambda seed: compared(seed)[1], N_BATCHES)


class Judges:
    """Who judges the faults of which function."""

    def __init__(self) -> None:
        from bptool.gradient_check.model import SETTINGS as MODELS
        from bptool.gradient_check.operations import cases
        from bptool.registry import models, objectives, regularizers

        self._of_kernel: dict[str, list[str]] = {}
        self._of_class: dict[tuple[str, str], list[str]] = {}
        for case in cases():
            for kernel in case.covers:
                self._of_kernel.setdefault(kernel, []).append(case.name)
        for kind, registry in (("objective", objectives), ("regularizer", regularizers)):
            for name in registry.names():
                part = registry.get(name)
                file = Path(sys.modules[part.__module__].__file__ or "")
                place = (file.relative_to(PACKAGE).as_posix(), part.__name__)
                self._of_class[place] = [f"{kind} {name}"]
        self._cases = {case.name for case in cases()}
        self._of_model: dict[str, list[str]] = {}
        for name in MODELS:
            for module in _reached(models.get(name).__module__):
                self._of_model.setdefault(module, []).append(name)

    def of(self, file: str, function: str) -> list[Judge]:
        """The judges of a function; none where no check runs it backward."""
        room = file.partition("/")[0]
        if file in REDUCTION:
            return [_training_judge("mlp")] if _reduces(function) else []
        kernel = function.rpartition(".")[2]
        if room == "models":
            compiled = dict(functions(_tree(file)))[function].decorator_list
            if not _is_backward(kernel) or not compiled or holder_of(function):
                return []
            return [
                judge
                for model in self._of_model.get(f"bptool.{file[:-3].replace('/', '.')}", [])
                for judge in self._through(model)
            ] + list(self._of_team(file, function))
        found = [name for name in self._of_kernel.get(kernel, []) if name in self._cases]
        holder = holder_of(function)
        if holder and kernel == "gradient":
            found += self._of_class.get((file, holder), [])
            if not found and f"objective {holder.lower()}" in self._cases:
                found = [f"objective {holder.lower()}"]
        if room == "regularizers" and not holder and "gradient" in kernel:
            found += [n for (f, _), names in self._of_class.items() if f == file for n in names]
        judges = [_operation_judge(name) for name in dict.fromkeys(found) if name in self._cases]
        return [*judges, *self._of_team(file, function)] if judges else []

    def _of_team(self, file: str, function: str) -> Iterator[Judge]:
        """The program that trains, for what the members of a team do together."""
        if "team" in {
            argument.arg for argument in dict(functions(_tree(file)))[function].args.args
        }:
            for model in self._of_model.get(f"bptool.{file[:-3].replace('/', '.')}", []):
                yield _training_judge(model)

    def _through(self, model: str) -> Iterator[Judge]:
        from bptool.registry import models

        yield _model_judge(model, None)
        if models.get(model).value_head:
            yield _model_judge(model, "ppo")


def holder_of(function: str) -> str:
    """The class of a method, or nothing."""
    return function.rpartition(".")[0]


def _is_backward(name: str) -> bool:
    return "backward" in name or "gradient" in name or name.endswith(("_step", "_pass"))


def _reduces(function: str) -> bool:
    return function in ("add_into", "Shards.reduce", "Shards.loss_and_gradient")


def _reached(module: str) -> set[str]:
    """A module of bptool and all of them that it imports."""
    found, waiting = set[str](), [module]
    while waiting:
        name = waiting.pop()
        if name in found or name not in sys.modules or not name.startswith("bptool"):
            continue
        if hasattr(sys.modules[name], "__path__"):
            continue  # a package names more than is asked of it
        found.add(name)
        waiting += imported_by(name)
    return found


def imported_by(module: str) -> set[str]:
    """What a module names in its imports."""
    names: set[str] = set()
    file = sys.modules[module].__file__
    for node in ast.walk(ast.parse(Path(file or "").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def targets(judges: Judges) -> dict[tuple[str, str], list[Judge]]:
    """Every function that faults are planted in, and who judges it."""
    found = {}
    for room in ("ops", "objectives", "regularizers", "models"):
        for path in sorted((PACKAGE / room).rglob("*.py")):
            file = path.relative_to(PACKAGE).as_posix()
            for name, _ in functions(_tree(file)):
                found[file, name] = judges.of(file, name)
    for file in REDUCTION:
        for name, _ in functions(_tree(file)):
            found[file, name] = judges.of(file, name)
    return {place: some for place, some in found.items() if some}


# --- one fault --------------------------------------------------------------------------------


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module from a text, whatever its file says."""

    def __init__(self, name: str, path: str, text: str) -> None:
        super().__init__(name, path)
        self._text = text

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._text, self.path, "exec", dont_inherit=True)


class _Finder:
    def __init__(self, name: str, path: Path, text: str) -> None:
        self._spec = importlib.util.spec_from_file_location(
            name, path, loader=_Loader(name, str(path), text)
        )
        self._name = name

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return self._spec if name == self._name else None


def plant(file: str, text: str) -> None:
    """From now on ``file`` is ``text``, in it and in every module that imports it."""
    from bptool import registry
    from bptool.ops import jit

    name = f"bptool.{file[:-3].replace('/', '.')}"
    finder: Any = _Finder(name, PACKAGE / file, text)
    sys.meta_path.insert(0, finder)
    jit._OPTIONS["cache"] = False
    loaded = {n: m for n, m in sys.modules.items() if n.partition(".")[0] == "bptool"}
    imports = {n: imported_by(n) for n in loaded}
    stale = {name}
    while more := {n for n in loaded if imports[n] & stale} - stale:
        stale |= more
    for parts in vars(registry).values():
        if isinstance(parts, registry.Registry):
            for part in [n for n, c in parts._classes.items() if c.__module__ in stale]:
                del parts._classes[part]
                stale.add(parts.package)  # its import finds and registers what is missing
    for module in stale:
        parent, _, child = module.rpartition(".")
        if sys.modules.pop(module, None) is not None and parent in loaded:
            vars(loaded[parent]).pop(child, None)


Verdict = tuple[str, str]
"""``reported``, ``equivalent`` or ``survived``, and what says so."""


def _judge_here(fault: Fault, judges: Sequence[Judge], send: Any) -> None:
    """In a process of its own: plant the fault and send the verdict."""
    try:
        _quietly()
        plant(fault.file, planted(fault))
        for judge in judges:
            problems = judge.check()
            if problems:
                send.send(("reported", f"{judge.name}: {problems[0]}"))
                return
        send.send(("compare", ""))
        for judge in judges:
            for seed in range(judge.n_inputs):
                send.send([np.array(g) for g in judge.gradients(seed)])
        send.send(None)
    except BaseException as error:
        words = " ".join(traceback.format_exception_only(error)[-1].split())
        send.send(("reported", f"{type(error).__name__}: {words[:200]}"))


def _clean_here(judges: Sequence[Judge], send: Any) -> None:
    _quietly()
    for judge in judges:
        for seed in range(judge.n_inputs):
            send.send([np.array(g) for g in judge.gradients(seed)])
    send.send(None)


def _quietly() -> None:
    """Messages of the BLAS about arguments that a fault made wrong go nowhere."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)


def judged(fault: Fault, judges: Sequence[Judge]) -> Verdict:
    """What becomes of one fault."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_judge_here, args=(fault, judges, send))
    process.start()
    send.close()
    try:
        if not receive.poll(SECONDS):
            return "reported", f"no end within {SECONDS:.0f} s"
        verdict: Verdict = receive.recv()
        if verdict[0] != "compare":
            return verdict
        return _compared(receive, judges)
    except EOFError:
        process.join()
        return "reported", f"the process died with code {process.exitcode}"
    finally:
        process.kill()
        process.join()
        receive.close()


def _compared(receive: Any, judges: Sequence[Judge]) -> Verdict:
    """Whether gradients on many inputs are those of the original."""
    context = multiprocessing.get_context("fork")
    original, send = context.Pipe(duplex=False)
    process = context.Process(target=_clean_here, args=(judges, send))
    process.start()
    send.close()
    try:
        number = 0
        while True:
            if not receive.poll(SECONDS):
                return "reported", f"no end within {SECONDS:.0f} s"
            mine = receive.recv()
            if mine is None:
                return "equivalent", f"gradients of {number:,} inputs are the same"
            if isinstance(mine, tuple):
                return mine
            theirs = original.recv()
            if len(mine) != len(theirs) or not all(map(_same, mine, theirs)):
                return "survived", f"no check reported it; input {number} has another gradient"
            number += 1
    finally:
        process.kill()
        process.join()
        original.close()


def _same(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    if a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return False
    size = float(np.max(np.abs(b), initial=0.0, where=np.isfinite(b)))
    with np.errstate(invalid="ignore"):
        return bool(np.max(np.abs(a - b), initial=0.0, where=np.isfinite(b)) <= SAME * size)


# --- the sweep --------------------------------------------------------------------------------


def warm_up(places: dict[tuple[str, str], list[Judge]]) -> list[str]:
    """Run every judge without a fault, so that all is compiled; what they wrongly report."""
    warnings.filterwarnings("ignore", "Cannot cache compiled function")  # for want of optimization
    unique = {judge.name: judge for some in places.values() for judge in some}
    return [line for judge in unique.values() for line in judge.check()]


def in_random_order(places: Iterable[tuple[str, str]], seed: int) -> list[Fault]:
    """All faults, shuffled."""
    found = [fault for file, name in places for fault in faults_of(file, name)]
    random.Random(seed).shuffle(found)
    return found


def in_a_process_with_settings(words: Sequence[str]) -> None:
    """Begin again with bounds checks and without optimization, which are set before the start."""
    cache = platformdirs.user_cache_path("bptool")
    environment = {
        **os.environ,
        **SETTINGS,
        "NUMBA_CACHE_DIR": os.environ.get("FAULTS_CACHE_DIR", str(cache / "kernels-checked")),
        "BPTOOL_CACHE_DIR": os.environ.get("BPTOOL_CACHE_DIR", str(cache / "faults")),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    Path(environment["BPTOOL_CACHE_DIR"]).mkdir(parents=True, exist_ok=True)
    module = "benchmarks.reliability.planted_faults"
    os.execve(sys.executable, [sys.executable, "-m", module, *words], environment)


def main() -> int:
    """Sweep; the exit code is 1 if a fault survived, or if a check reports what has no fault."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability.planted_faults")
    parser.add_argument("--journal", type=Path, help="a line of JSON for each fault; goes on")
    parser.add_argument("--hours", type=float, default=3.0, help="after which the sweep ends")
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    parser.add_argument("--only", default="", help="functions whose file or name has this in it")
    parser.add_argument("--count", type=int, help="so many faults at most")
    parser.add_argument("--functions", type=int, help="only so many functions, drawn by the seed")
    parser.add_argument("--processes", type=int, default=2, help="faults at a time")
    arguments = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in SETTINGS.items()):
        in_a_process_with_settings(sys.argv[1:])
    began = time.monotonic()
    places = {
        place: some
        for place, some in targets(Judges()).items()
        if arguments.only in f"{place[0]} {place[1]}"
    }
    if arguments.functions is not None:
        drawn = random.Random(arguments.seed).sample(sorted(places), arguments.functions)
        places = {place: places[place] for place in drawn}
    if alarms := warm_up(places):
        print("without a fault:", *alarms, sep="\n  ")
        return 1
    every = in_random_order(places, arguments.seed)
    done: dict[str, Verdict] = {}
    journal = arguments.journal
    if journal is not None and journal.exists():
        for line in journal.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            done[record["fault"]] = record["verdict"], record["why"]
    left = [fault for fault in every if fault.name not in done][: arguments.count]
    print(f"{len(every):,} faults in {len(places)} functions, {len(done):,} done", flush=True)

    def judge_one(fault: Fault) -> None:
        if time.monotonic() - began > arguments.hours * 3600:
            return
        verdict, why = judged(fault, places[fault.file, fault.function])
        done[fault.name] = verdict, why
        print(f"{verdict}: {fault.name}: {why}", flush=True)
        if journal is not None:
            with journal.open("a", encoding="utf-8") as file:
                line = {"fault": fault.name, "verdict": verdict, "why": why}
                file.write(json.dumps(line) + "\n")

    with ThreadPoolExecutor(arguments.processes) as pool:
        list(pool.map(judge_one, left))
    names = {fault.name for fault in every}
    counts = dict.fromkeys(("reported", "equivalent", "survived"), 0)
    for name, (verdict, _) in done.items():
        counts[verdict] += name in names
    tried = sum(counts.values())
    print(f"{tried:,} of {len(every):,} faults tried ({tried / len(every):.1%}): {counts}")
    return int(counts["survived"] > 0)


if __name__ == "__main__":
    sys.exit(main())
