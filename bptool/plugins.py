"""Programs of the user's: plug-ins with parts, ``--plugin my_optimizer.py`` or ``my.package``, and
rules that reward or judge answers.

Loading a plug-in runs its code, so that its ``@optimizers.register(...)`` lines take effect.
Nothing is ever run that the user did not name on this command line (``consent.py``): no folder is
searched and no entry point is read. What runs of a file are the bytes that were read, and hashed,
when it was named, not what a compiled copy beside it holds.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import os
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from bptool import consent, registry, user_output
from bptool.consent import Program
from bptool.errors import BptoolError, ConfigError
from bptool.files import read_bounded

_DOTTED_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_MAX_BYTES = 16 * 2**20
_MOST_FILES = 10_000
"""Of a package that are hashed."""


def name_plugin(source: Path | str) -> Program:
    """Take a plug-in for named by the user, and read it; none of its code is run.

    Args:
        source: path of a ``.py`` file, or the dotted name of an importable module.

    Raises:
        ConfigError: no such file or module, or not a ``.py`` file.
    """
    text, path = str(source), Path(source)
    if _DOTTED_NAME.fullmatch(text) and path.suffix != ".py" and not path.is_file():
        program = Program("--plugin", text, None, _sha256_of_module(text))
        consent.allow(program)
        return program
    if not path.exists():
        raise ConfigError(f"plug-in {path}: no such file")
    if path.suffix != ".py" or not path.is_file():
        raise ConfigError(
            f"plug-in {path}: not a Python file; give a .py file or the dotted name of a module"
        )
    return _named("--plugin", text, f"plug-in {path}")


def load_plugin(source: Path | str) -> ModuleType:
    """Name a plug-in and import it, so that the parts it registers can be named. A second call is
    free.

    Raises:
        ConfigError: as :func:`name_plugin`; or an error in its code (with its file and line), or a
            name that is taken already. What it had registered by then is taken back.
    """
    return load_named(name_plugin(source))


def load_named(plugin: Program) -> ModuleType:
    """Import a plug-in that :func:`name_plugin` read."""
    if plugin.path is None:
        return _load(plugin.given, plugin)
    # The name does not change from run to run, as the kernel cache asks.
    digest = hashlib.sha256(os.fsencode(plugin.path)).hexdigest()[:12]
    return _load(f"bptool_plugin_{plugin.path.stem}_{digest}", plugin)


def name_rules(option: str, path: Path) -> Program:
    """Take a Python file of rules for named by the user by ``option``, and read it.

    Raises:
        ConfigError: there is no such file.
    """
    if not path.exists():
        raise ConfigError(f"{path}: no such file; name a Python file with a judge or a reward")
    return _named(option, str(path), str(path))


def named_rules(path: Path) -> Program:
    """The program that a file of rules is.

    Raises:
        ConfigError: the user has not named it, so that it may not run.
    """
    program = consent.program_at(path)
    if program is None and not path.exists():
        raise ConfigError(f"{path}, which rewards answers, is not there; name one by --reward")
    if program is None:
        raise ConfigError(
            f"{path} rewards answers; it is a program, which runs only when you name it on this "
            f"command line; look at it, then add --reward {consent.on_one_line(str(path))}"
        )
    return program


def run_rules(path: Path) -> dict[str, Any]:
    """Run a file of rules that was named, and give what it defines; its own errors are raised."""
    program = named_rules(path)
    module = ModuleType("bptool_rules")
    module.__file__ = str(program.path)
    sys.modules[module.__name__] = module  # where a dataclass in it is looked up
    exec(compile(program.source, module.__file__, "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


def _named(option: str, given: str, what: str) -> Program:
    try:
        path = Path(given).resolve()
        source = read_bounded(path, _MAX_BYTES)
    except (OSError, RuntimeError) as error:  # of which the latter is a link to itself
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise ConfigError(f"{what} cannot be read: {reason}; name a Python file") from None
    program = Program(option, given, path, hashlib.sha256(source).hexdigest(), source)
    consent.allow(program)
    return program


def _sha256_of_module(name: str) -> str:
    """SHA-256 of a module's file, or of all code in the package that it stands in; found without
    importing anything. That of nothing where there is no such module."""
    files: list[Path] = []
    spec = _spec_of(name.partition(".")[0], None)
    if spec is not None and spec.submodule_search_locations:
        suffixes = tuple(importlib.machinery.all_suffixes())
        for folder in map(Path, spec.submodule_search_locations):
            found = (p for p in folder.rglob("*") if p.name.endswith(suffixes) and p.is_file())
            files += sorted(p for p in found if "__pycache__" not in p.parts)
    elif spec is not None and spec.origin and Path(spec.origin).is_file():
        files = [Path(spec.origin)]
    digest = hashlib.sha256()
    for path in files[:_MOST_FILES]:
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise ConfigError(f"plug-in {name}: {path} cannot be read: {error}") from None
    return digest.hexdigest()


def _spec_of(name: str, path: Any) -> importlib.machinery.ModuleSpec | None:
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec = None if find is None else find(name, path)
        if spec is not None:
            assert isinstance(spec, importlib.machinery.ModuleSpec)
            return spec
    return None


def _load(name: str, plugin: Program) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    registries = [part for part in vars(registry).values() if isinstance(part, registry.Registry)]
    for part in registries:
        part.names()  # Our own parts come first, so that a clash is the plug-in's.
    before = [dict(part._classes) for part in registries]
    try:
        with user_output.to_stderr():
            if plugin.path is None:
                return importlib.import_module(name)
            return _run_file(name, plugin.path, plugin.source)
    except (Exception, SystemExit) as error:
        for part, classes in zip(registries, before, strict=True):
            part._classes = classes
        where = "" if plugin.path is None else str(plugin.path)
        raise ConfigError(f"plug-in {_describe(error, name, where)}") from error


def _run_file(name: str, path: Path, source: bytes) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    # Pydantic and the kernel cache look the module up by its name.
    sys.modules[name] = module
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _describe(error: BaseException, name: str, file: str) -> str:
    """``file, line N: what went wrong``: the deepest line that is the plug-in's own."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is not None and not file and f"{name}.".startswith(f"{missing}."):
        return f"{name}: no such module; give an installed module or the path of a .py file"
    message = " ".join(str(error).split())
    if isinstance(error, SyntaxError):
        return f"{error.filename or file}, line {error.lineno}: SyntaxError: {error.msg}"
    if not isinstance(error, BptoolError):
        message = f"{type(error).__name__}: {message}" if message else type(error).__name__
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if (frame.filename == file if file else _belongs_to(frame.filename, name))
    ]
    place = f"{own[-1].filename}, line {own[-1].lineno}" if own else (file or name)
    return f"{place}: {message}"


def _belongs_to(filename: str, name: str) -> bool:
    """Whether ``filename`` is a file of the package or module that ``name`` starts with."""
    parts = name.split(".")
    path = Path(filename)
    return parts[0] in path.parts or path.stem == parts[0]
