"""The one decorator that compiles a kernel, and where compiled kernels are kept.

Kernels release the GIL, are compiled at their first call for the types they meet (float32 to
train, float64 to check), and are cached on disk. ``fastmath`` is never on as a whole, since it
would let NaN and infinity through unseen; only the flags that let sums be reordered into vector
lanes and products be fused are set.

Numba's cache key does not see a change in *another* file that a kernel calls, so the cache folder
is named after a hash of every source file that holds kernels. The cache is a pickle, so it lives
in the user's own folder (mode 0700), never in a run folder; with no such folder, in a temporary
one, which :mod:`bptool.caches` says.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as ll
import numba
import numba.core.config
import numba.core.event
import numpy as np
from numba.core.codegen import CPUCodeLibrary

from bptool.caches import user_cache
from bptool.errors import UserError

FASTMATH = {"contract", "reassoc", "nsz"}
_OPTIONS = {"nogil": True, "cache": True, "error_model": "numpy", "no_cfunc_wrapper": True}
"""No kernel is called by its address, so none needs the wrapper for that, which takes time to
compile."""
PACKAGES_WITH_KERNELS = ("ops", "models", "objectives", "optim", "regularizers")


def kernel_fingerprint() -> str:
    """Hash of everything a compiled kernel depends on besides its own file."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parent.parent
    for package in PACKAGES_WITH_KERNELS:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode())
            digest.update(path.read_bytes())
    for version in (numba.__version__, llvmlite.__version__, np.__version__):
        digest.update(version.encode())
    digest.update(os.environ.get("NUMBA_CPU_NAME", "").encode())
    digest.update(os.environ.get("NUMBA_CPU_FEATURES", "-").encode())
    return digest.hexdigest()[:16]


def _choose_cache_folder() -> None:
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    base = user_cache("kernels", private=True) if chosen is None else Path(chosen)
    folder = base / kernel_fingerprint()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror or error}); set NUMBA_CACHE_DIR to a "
            "folder that can, for compiled kernels"
        ) from None
    numba.core.config.CACHE_DIR = str(folder)


_choose_cache_folder()


def kernel(function: Callable[..., Any]) -> Any:
    """Compile ``function`` with Numba: no GIL, cached on disk, lazily for the types it meets."""
    return numba.njit(**_OPTIONS, fastmath=FASTMATH)(function)


def kernel_without_nan(function: Callable[..., Any]) -> Any:
    """For a search for the largest element, which does not vectorise unless LLVM may assume that
    there is no NaN; the caller must see one all the same."""
    flags = {"nnan", "nsz", "reassoc"}
    return numba.njit(**_OPTIONS, fastmath=flags)(function)


def composition(function: Callable[..., Any]) -> Any:
    """Compile a function that calls kernels and has no loops over elements of its own.

    Numba optimises a function together with copies of all that it calls, which has been optimised
    by itself before. For a model's whole step that took most of the time of compiling it.
    """
    _compositions.add((function.__module__, function.__qualname__))
    return kernel(function)


_compositions: set[tuple[str, str]] = set()
_CODE_PASSES = ("native_lowering", "nopython_backend")
"""Passes of Numba in which LLVM's run; what a function calls has been compiled before them."""


class _LessOptimisation(numba.core.event.Listener):  # type: ignore[misc]
    """Lowers LLVM's level of optimisation while a composition becomes machine code."""

    def on_start(self, event: Any) -> None:
        if self._concerns(event):
            self._level = numba.core.config.OPT
            numba.core.config.OPT = type(self._level)(min(1, int(self._level)))

    def on_end(self, event: Any) -> None:
        if self._concerns(event):
            numba.core.config.OPT = self._level

    def _concerns(self, event: Any) -> bool:
        data = event.data
        is_code = data["name"].startswith(_CODE_PASSES)
        return is_code and (data["module"], data["qualname"]) in _compositions


numba.core.event.register("numba:run_pass", _LessOptimisation())


def _keep_copies_apart(library: type[CPUCodeLibrary]) -> None:
    """Have each compiled function call its own copies of the functions that it calls.

    Numba lets the linker take any copy of the same name, and it takes the first that is in the
    process. In the process that compiles that is the function by itself, in one that loads the
    caller from disk the caller's copy, which was optimised together with it and may round in
    another way: a run would depend on whether its kernels were cached. These are private parts of
    Numba, and a version without them is left as it is; ``tests/test_no_home.py`` fails with one.
    """
    finalize = getattr(library, "_finalize_final_module", None)
    if finalize is None:
        return

    def finalize_apart(self: CPUCodeLibrary) -> None:
        if self._shared_module is None:  # else it comes from disk, where this has been done
            mergeable, own = ll.Linkage.linkonce_odr, self._final_module
            shared = own.clone()  # others are linked with this one, and must find the names
            for function in _defined(shared, ll.Linkage.external):
                function.linkage = mergeable
            self._shared_module = shared
            for function in _defined(own, mergeable):
                function.linkage = ll.Linkage.internal
        finalize(self)

    library._finalize_final_module = finalize_apart


def _defined(module: Any, linkage: Any) -> list[Any]:
    return [f for f in module.functions if not f.is_declaration and f.linkage == linkage]


_keep_copies_apart(CPUCodeLibrary)


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
