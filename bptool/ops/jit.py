"""Compiling kernels, and keeping compiled ones on disk.

Kernels release the GIL, are compiled at their first call for the types they meet (float32 to
train, float64 to check), and are cached on disk. ``fastmath`` is never on as a whole, since it
would let NaN and infinity through unseen; only the flags that let sums be reordered into vector
lanes and products be fused are set.

Compiling goes through a Numba target of our own (:class:`_Target`), derived from Numba's for the
CPU, so that nothing of Numba is changed for other users of it in the process:

- ``_Cache`` keeps a kernel in a folder named after a hash of the syntax trees, without docstrings,
  of its module and of all that it reaches by imports (:func:`fingerprint`). Numba's own key does
  not see a change in another file.
- ``_Library`` has each compiled function call its own copies of what it calls, so that compiling
  and loading give the same bits.
- ``_Codegen`` optimizes compositions less, which would take most of the time of compiling.

The cache is a pickle, so it lives in the user's own folder (mode 0700), never in a run folder; with
no such folder, in a temporary one, which :mod:`bptool.caches` says.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as ll
import numba
import numba.core.event
import numpy as np
from numba.core import caching, ccallback, codegen, cpu, dispatcher, registry, target_extension

from bptool.caches import user_cache
from bptool.errors import UserError

FASTMATH = {"contract", "reassoc", "nsz"}
_OPTIONS = {"nogil": True, "cache": True, "error_model": "numpy", "no_cfunc_wrapper": True}
"""No kernel is called by its address, so none needs the wrapper for that, which takes time to
compile."""
PACKAGES_WITH_KERNELS = ("ops", "models", "objectives", "optim", "regularizers")
_TARGET = "bptool"
_ROOT = Path(__file__).resolve().parent.parent


def kernel(function: Callable[..., Any], fastmath: set[str] = FASTMATH) -> Any:
    """Compile ``function`` with Numba: no GIL, cached on disk, lazily for the types it meets."""
    return numba.jit(**_OPTIONS, fastmath=fastmath, _target=_TARGET)(function)


def kernel_without_nan(function: Callable[..., Any]) -> Any:
    """For a search for the largest element, which does not vectorise unless LLVM may assume that
    there is no NaN; the caller must see one all the same."""
    return kernel(function, {"nnan", "nsz", "reassoc"})


def composition(function: Callable[..., Any]) -> Any:
    """Compile a function that calls kernels and has no loops over elements of its own.

    Numba optimizes a function together with copies of all that it calls, which has been optimized
    by itself before. For a model's whole step that took most of the time of compiling it.
    """
    _compositions.add(function.__qualname__)
    return kernel(function)


def c_function(signature: Any, cache: bool = True) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function of ``signature`` at once, to be called by its ``address``.

    Args:
        signature: the Numba signature.
        cache: keep it on disk; not for one that holds an address, which is good for one process.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        routine = _CFunction(function, (signature.args, signature.return_type), {}, {})
        if cache:
            routine.enable_caching()
        routine.compile()
        return routine

    return compiled


# What a compiled kernel depends on


def fingerprint(module: str) -> str:
    """Hash of the code that kernels of ``module`` may hold: its own and that of all it imports.

    Comments, docstrings and layout do not count. Of modules outside bptool (a plug-in's) those are
    followed that are in the process and neither Python's nor an installed package's.
    """
    digest = hashlib.sha256(_environment())
    for path in sorted(_reached(module)):
        digest.update(_code(path)[0].encode())
    return digest.hexdigest()[:16]


@functools.cache
def kernel_fingerprint() -> str:
    """Hash of the code of all kernels, and of what compiles them."""
    digest = hashlib.sha256(_environment())
    for package in PACKAGES_WITH_KERNELS:
        for path in sorted((_ROOT / package).rglob("*.py")):
            digest.update(path.relative_to(_ROOT).as_posix().encode())
            digest.update(_code(path)[0].encode())
    return digest.hexdigest()[:16]


def _environment() -> bytes:
    versions = (numba.__version__, llvmlite.__version__, np.__version__)
    cpu_name = os.environ.get("NUMBA_CPU_NAME", "")
    features = os.environ.get("NUMBA_CPU_FEATURES", "-")
    return "\n".join((*versions, cpu_name, features)).encode()


@functools.cache
def _code(path: Path) -> tuple[str, frozenset[str]]:
    """The hash of a file's code, and the dotted names that it imports (some are no modules)."""
    tree = ast.parse(path.read_bytes(), str(path))
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            imported.add(base)
            imported.update(f"{base}.{alias.name}" for alias in node.names)
        body = getattr(node, "body", None)
        if isinstance(body, list):  # strings that stand alone: docstrings, of attributes too
            node.body = [s for s in body if not _is_text(s)]  # type: ignore[attr-defined]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), frozenset(imported)


def _is_text(statement: Any) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _reached(module: str) -> set[Path]:
    """The files of ``module`` and of what it imports, directly or not."""
    reached: set[Path] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _source(name)
        if path is None or path in reached:
            continue
        reached.add(path)
        if path == Path(__file__).resolve():
            continue  # what it imports decides where kernels are kept, not what they are
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for imported in _code(path)[1]:
            depth = len(imported) - len(imported.lstrip("."))
            base = ".".join(package.split(".")[: len(package.split(".")) - depth + 1])
            waiting.append(f"{base}.{imported[depth:]}".strip(".") if depth else imported)
    return reached


def _source(name: str) -> Path | None:
    """The file of a module that may hold code of kernels, or None."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None and name.startswith("bptool."):
        place = _ROOT.joinpath(*name.split(".")[1:])
        candidates = (place.with_suffix(".py"), place / "__init__.py")
        file = next((path for path in candidates if path.is_file()), None)
    if file is None or not str(file).endswith(".py"):
        return None
    path = Path(file).resolve()
    if path.is_relative_to(_ROOT):
        return path
    return None if any(path.is_relative_to(folder) for folder in _installed()) else path


@functools.cache
def _installed() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple(Path(sysconfig.get_path(name)).resolve() for name in names)


# Where compiled kernels are kept


@functools.cache
def _cache_folder() -> Path:
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    base = user_cache("kernels", private=True) if chosen is None else Path(chosen)
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{base}: cannot be written ({error.strerror or error}); set NUMBA_CACHE_DIR to a "
            "folder that can, for compiled kernels"
        ) from None
    return base


class _Locator(caching._CacheLocator):  # type: ignore[misc]
    """Numba's hook for where a function's compiled forms are kept."""

    def __init__(self, py_func: Callable[..., Any], py_file: str) -> None:
        self._py_file = py_file  # which a warning of Numba's names
        self._module = py_func.__module__

    def get_cache_path(self) -> str:
        return str(_cache_folder() / f"{self._module}-{fingerprint(self._module)}")

    def get_source_stamp(self) -> str:
        return ""  # the folder's name has it

    def get_disambiguator(self) -> str:
        return "1"  # the module is the folder's, and the key has a hash of the byte code

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> _Locator:
        return cls(py_func, py_file)


class _CacheFiles(caching.CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_Locator,)


class _FunctionCache(caching.FunctionCache):  # type: ignore[misc]
    _impl_class = _CacheFiles


class _Cache(caching._Cache):  # type: ignore[misc]
    """The cache of one function, which looks at no file before the function is called."""

    def __init__(self, py_func: Callable[..., Any]) -> None:
        self._py_func = py_func

    @functools.cached_property
    def _files(self) -> Any:
        return _FunctionCache(self._py_func)

    @property
    def cache_path(self) -> Any:
        return self._files.cache_path

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What was compiled for ``sig``, or None. Files that cannot be read are forgotten, such as
        those that a full disk cut off, or that name classes which another version of bptool had."""
        try:
            return self._files.load_overload(sig, target_context)
        except Exception:
            self._files.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        self._files.save_overload(sig, data)

    def enable(self) -> None:
        self._files.enable()

    def disable(self) -> None:
        self._files.disable()

    def flush(self) -> None:
        self._files.flush()


# How machine code is made

_compositions: set[str] = set()


class _Library(codegen.JITCodeLibrary):  # type: ignore[misc]
    """Compiled code that calls its own copies of the functions that it calls.

    Numba lets the linker take any copy of the same name, and it takes the first that is in the
    process. In the process that compiles that is the function by itself, in one that loads the
    caller from disk the caller's copy, which was optimized together with it and may round in
    another way: a run would depend on whether its kernels were cached.
    """

    _shared_module: Any

    def _finalize_final_module(self) -> None:
        if self._shared_module is None:  # else it comes from disk, where this has been done
            mergeable, module = ll.Linkage.linkonce_odr, self._final_module
            shared = module.clone()  # others are linked with this one, and must find the names
            for function in _defined(shared, ll.Linkage.external):
                function.linkage = mergeable
            self._shared_module = shared
            for function in _defined(module, mergeable):
                function.linkage = ll.Linkage.internal
        super()._finalize_final_module()

    def _optimize_functions(self, ll_module: Any) -> None:
        with self._codegen.optimizing(self.name):
            super()._optimize_functions(ll_module)

    def _optimize_final_module(self) -> None:
        with self._codegen.optimizing(self.name):
            super()._optimize_final_module()


def _defined(module: Any, linkage: Any) -> list[Any]:
    return [f for f in module.functions if not f.is_declaration and f.linkage == linkage]


class _Codegen(codegen.JITCPUCodegen):  # type: ignore[misc]
    _library_class = _Library
    _level: int | None = None

    @contextlib.contextmanager
    def optimizing(self, name: str) -> Iterator[None]:
        """Lower LLVM's level of optimization inside the block if ``name`` is a composition's.

        Numba's lock of its compiler is held here.
        """
        before, self._level = self._level, 1 if name in _compositions else None
        try:
            yield
        finally:
            self._level = before

    def _pass_builder(self, **kwargs: Any) -> Any:
        if self._level is not None and "opt" not in kwargs:
            kwargs["opt"] = self._level
        return super()._pass_builder(**kwargs)


class _Context(cpu.CPUContext):  # type: ignore[misc]
    def init(self) -> None:
        super().init()
        self._internal_codegen = _Codegen("bptool.exec")


class _Target(registry.CPUTarget):  # type: ignore[misc]
    @functools.cached_property
    def _toplevel_target_context(self) -> Any:
        return _Context(self.typing_context, self._target_name)


class _Dispatcher(dispatcher.Dispatcher):  # type: ignore[misc]
    targetdescr = _Target(_TARGET)

    def enable_caching(self) -> None:
        self._cache = _Cache(self.py_func)

    def compile(self, sig: Any) -> Any:
        # What Numba looks up while it makes code, after types are known, is for the current target.
        with target_extension.target_override(_TARGET):
            return super().compile(sig)


class _CFunction(ccallback.CFunc):  # type: ignore[misc]
    _targetdescr = _Dispatcher.targetdescr
    _pyfunc: Callable[..., Any]

    def enable_caching(self) -> None:
        self._cache = _Cache(self._pyfunc)

    def compile(self) -> None:
        with target_extension.target_override(_TARGET):
            super().compile()


class _Hardware(target_extension.CPU):  # type: ignore[misc]
    """The name under which Numba finds the target; all that is for a CPU is for it."""


target_extension.target_registry[_TARGET] = _Hardware
target_extension.dispatcher_registry[_Hardware] = _Dispatcher
target_extension.jit_registry[_Hardware] = functools.partial(numba.jit, _target=_TARGET)


def compiled_for() -> tuple[str, str, str]:
    """LLVM's triple, the processor and its features that kernels are compiled for."""
    triple, processor, features = _Dispatcher.targetdescr.target_context.codegen().magic_tuple()
    return triple, processor, features


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """Collect the names of kernels compiled inside the block; those loaded from disk are not."""
    names: list[str] = []

    class Recorder(numba.core.event.Listener):  # type: ignore[misc]
        def on_start(self, event: Any) -> None:
            names.append(str(event.data["dispatcher"].py_func.__name__))

        def on_end(self, event: Any) -> None:
            pass

    with numba.core.event.install_listener("numba:compile", Recorder()):
        yield names
