"""Parts from a user's own file or package: ``--plugin my_optimizer.py``, ``--plugin my.package``.

Loading one runs its code, so that its ``@optimizers.register(...)`` lines take effect. Nothing is
ever loaded that the user did not name: no folder is searched and no entry point is read.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType

from bptool import registry, user_output
from bptool.errors import BptoolError, ConfigError

_DOTTED_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def load_plugin(source: Path | str) -> ModuleType:
    """Import a plug-in, so that the parts it registers can be named. A second call is free.

    Args:
        source: path of a ``.py`` file, or the dotted name of an importable module.

    Raises:
        ConfigError: no such file or module, not a ``.py`` file, an error in its code (with its
            file and line), or a name that is taken already. What it had registered by then is
            taken back.
    """
    text = str(source)
    path = Path(source)
    if _DOTTED_NAME.fullmatch(text) and path.suffix != ".py" and not path.is_file():
        return _load(text, None)
    if not path.exists():
        raise ConfigError(f"plug-in {path}: no such file")
    if path.suffix != ".py" or not path.is_file():
        raise ConfigError(
            f"plug-in {path}: not a Python file; give a .py file or the dotted name of a module"
        )
    path = path.resolve()
    # The name does not change from run to run, as the kernel cache asks.
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:12]
    return _load(f"bptool_plugin_{path.stem}_{digest}", path)


def _load(name: str, path: Path | None) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    registries = [part for part in vars(registry).values() if isinstance(part, registry.Registry)]
    for part in registries:
        part.names()  # Our own parts come first, so that a clash is the plug-in's.
    before = [dict(part._classes) for part in registries]
    try:
        with user_output.to_stderr():
            return importlib.import_module(name) if path is None else _run_file(name, path)
    except (Exception, SystemExit) as error:
        for part, classes in zip(registries, before, strict=True):
            part._classes = classes
        where = "" if path is None else str(path)
        raise ConfigError(f"plug-in {_describe(error, name, where)}") from error


def _run_file(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Pydantic and the kernel cache look the module up by its name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
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
