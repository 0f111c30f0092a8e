"""Holds the table of layers in docs/design.md: who may import whom, and a few habits."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from bptool.cli.commands import COMMANDS

pytestmark = pytest.mark.quick

PACKAGE = Path(__file__).resolve().parent.parent / "bptool"
MODULES = sorted(PACKAGE.rglob("*.py"))
NAMES = {path: path.relative_to(PACKAGE).as_posix() for path in MODULES}

# Modules beside the packages; everything may use these.
BASE = {"caches", "consent", "errors", "files", "registry", "user_output"}
LOW = BASE | {"config", "ops"}
PARTS = LOW | {"data", "models", "objectives", "optim", "plugins", "regularizers"}
WHOLE = PARTS | {
    *("api", "comparison", "feedback", "gradient_check", "inference", "recipes", "training"),
}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "user_output": set(),
    "consent": set(),
    "files": {"errors"},
    "caches": {"errors"},
    "registry": {"errors", "config"},
    "plugins": BASE | {"config"},
    "config": BASE | {"plugins"},
    "ops": {"errors", "caches"},
    "objectives": LOW,
    "optim": LOW,
    "regularizers": LOW,
    "data": LOW,
    "models": LOW | {"objectives"},
    "inference": PARTS,
    "feedback": PARTS | {"inference"},
    "training": PARTS | {"inference", "feedback"},
    "gradient_check": PARTS | {"training"},
    "comparison": PARTS | {"inference", "training"},
    "recipes": PARTS | {"feedback", "training"},
    "api": WHOLE - {"cli"},
    "cli": WHOLE,
}

OPS_PACKAGES = {"numpy", "numba", "scipy", "llvmlite", "threadpoolctl"}
ONLY_IN = {
    "typer": {"cli"},
    "rich": {"cli"},
    "click": set[str](),
    "matplotlib": {"cli", "comparison", "training"},
    "pooch": {"data"},
    "tokenizers": {"data"},
    "yaml": {"config", "cli", "training"},
}
NEVER = {
    *("torch", "jax", "tensorflow", "keras", "mxnet", "autograd", "tinygrad"),
    *("pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"),
}
# Light enough to load before a command is known to run.
LIGHT = {"typer", "rich", "bptool"}


class Import(NamedTuple):
    module: str
    line: int
    top_level: bool

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(tree: ast.Module) -> Iterator[Import]:
    """Every import of a module; those for type checkers only are left out."""

    def walk(node: ast.AST, top_level: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if is_type_checking(child):
                continue
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, child.lineno, top_level)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"line {child.lineno}: imports are absolute"
                # "from bptool.ops import linear" names a module; so may "from bptool import ops".
                for alias in child.names:
                    yield Import(f"{child.module}.{alias.name}", child.lineno, top_level)
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, top_level and not inside)

    return walk(tree, True)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def part_of(path: Path) -> str:
    """The package or base module of ours that a file belongs to: ``ops``, ``cli``, ``errors``."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def own_part(module: str) -> str | None:
    """The part of ours that an import names, or None: ``bptool.ops.linear`` gives ``ops``."""
    names = module.split(".")
    return names[1] if names[0] == "bptool" and len(names) > 1 else None


@pytest.fixture(params=MODULES, ids=NAMES.values())
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_imports_only_what_its_layer_may(path: Path) -> None:
    part = part_of(path)
    if part in ("__init__", "__main__"):
        return
    assert part in MAY_IMPORT, f"'{part}' is new: give it a row here and in docs/design.md"
    for found in imports(parse(path)):
        other = own_part(found.module)
        if other is not None and other != part and not other.startswith("__"):
            assert other in MAY_IMPORT[part], f"line {found.line}: {part} may not import {other}"


def test_imports_only_packages_meant_for_it(path: Path) -> None:
    part = part_of(path)
    for found in imports(parse(path)):
        where = f"line {found.line}: {part} may not import {found.package}"
        assert found.package not in NEVER, where
        assert part in ONLY_IN.get(found.package, {part}), where
        if part == "ops" and found.package != "bptool":
            known = found.package in sys.stdlib_module_names or found.package in OPS_PACKAGES
            assert known, where


def loaded_before_a_command_runs() -> set[Path]:
    """Our modules that the start of ``bptool`` and of each command's file import at the top."""
    targets = ["bptool.__main__", *(entry.target.partition(":")[0] for entry in COMMANDS.values())]
    found: set[Path] = set()
    while targets:
        module = targets.pop()
        path = PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py")
        if path in MODULES and path not in found:
            found.add(path)
            for one in imports(parse(path)):
                if one.top_level and one.package == "bptool":
                    targets += [one.module, one.module.rpartition(".")[0]]
    return found


@pytest.mark.parametrize("path", sorted(loaded_before_a_command_runs()), ids=NAMES.get)
def test_starting_imports_nothing_heavy(path: Path) -> None:
    for found in imports(parse(path)):
        light = found.package in LIGHT or found.package in sys.stdlib_module_names
        where = f"line {found.line}: import {found.module} inside the function that needs it"
        assert light or not found.top_level, where


def test_only_the_command_line_prints(path: Path) -> None:
    if part_of(path) in ("cli", "__main__"):
        return
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("print", "sys.stdout.write", "sys.stderr.write"), (
                f"line {node.lineno}: only cli prints; send an event or raise an error"
            )


def test_has_a_docstring_that_says_what_it_is(path: Path) -> None:
    text = ast.get_docstring(parse(path)) or ""
    assert len(text) > 20, "the module's docstring should say what it is"
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", path.read_text(encoding="utf-8"))


def test_the_design_names_every_part() -> None:
    design = (PACKAGE.parent / "docs" / "design.md").read_text(encoding="utf-8")
    table = design.partition("## Layers of the package")[2].partition("\n## ")[0]
    for path in MODULES:
        part = part_of(path)
        if part not in ("__init__", "__main__"):
            assert re.search(rf"`{part}(/|\.py)`", table), f"docs/design.md has no row for {part}"


def test_the_rules_can_fail() -> None:
    tree = ast.parse(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import torch\n"
        "import numpy.linalg\n"
        "def f():\n    from bptool.ops import linear\n"
    )
    found = list(imports(tree))
    assert [(one.package, one.top_level) for one in found] == [
        ("typing", True),
        ("numpy", True),
        ("bptool", False),
    ]
    assert own_part(found[-1].module) == "ops"


PRINTERS = {"print", "typer.echo", "typer.secho", "typer.style", "sys.stdout.write"}
PRINTERS |= {"sys.stderr.write", "traceback.print_exc", "os.write", "click.echo"}
ALLOWED_TO_PRINT = {"cli/terminal.py": PRINTERS, "cli/signals.py": {"os.write"}}


def prints_directly(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """What a module prints by itself: line and what it calls or imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in PRINTERS or re.search(r"(^|[._])(file|stdout|stderr)\.write$", called):
                yield node.lineno, called
        elif isinstance(node, ast.ImportFrom) and node.module == "rich.console":
            if any(alias.name == "Console" for alias in node.names):
                yield node.lineno, "rich.console.Console"
        elif isinstance(node, ast.ImportFrom) and node.module in ("rich", "rich.markup"):
            if any(alias.name in ("print", "escape") for alias in node.names):
                yield node.lineno, f"{node.module}.{node.names[0].name}"


@pytest.mark.parametrize("path", [p for p in MODULES if part_of(p) == "cli"], ids=NAMES.get)
def test_what_is_printed_passes_one_place(path: Path) -> None:
    if NAMES[path] == "cli/console.py":  # rich's console made safe
        return
    for line, called in prints_directly(parse(path)):
        assert called in ALLOWED_TO_PRINT.get(NAMES[path], set()), (
            f"line {line}: {called} prints; use bptool.cli.terminal or bptool.cli.console"
        )


def test_what_prints_by_itself_is_seen() -> None:
    tree = ast.parse(
        "from rich.console import Console\nprint(1)\nself.file.write('x')\nsys.stdout.write('x')\n"
    )
    assert len(list(prints_directly(tree))) == 4
