"""The BLAS libraries that multiply beside our own product: scipy's, MKL, Apple's Accelerate.

scipy's is always there. The others are looked for when they are first asked for, and called through
``ctypes``: MKL where its Python package is installed, Accelerate on macOS (written for, not run).
Each is held to one thread, since every worker calls it for itself.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import NamedTuple

ROUTINES = {"float32": "sgemm", "float64": "dgemm"}
LIBRARIES = ("blas", "mkl", "accelerate")
"""As ``training.engine`` calls them; ``blas`` is scipy's."""
_ACCELERATE = "/System/Library/Frameworks/Accelerate.framework/Accelerate"
_MKL_INTERFACE_LP64, _MKL_THREADING_SEQUENTIAL = 0, 1
_MKL_REPRODUCIBLE = 2
"""``MKL_CBWR_AUTO``: equal bits in every run on aligned arrays."""
_VERSION_BYTES = 256


class Library(NamedTuple):
    """A BLAS that is there."""

    version: str
    gemm: dict[str, int]
    """Address of Fortran's ``sgemm`` and ``dgemm``, by dtype."""


def version_of(name: str) -> str | None:
    """The version of a library's package, without loading it; None where it is not installed."""
    if name == "accelerate":
        return platform.mac_ver()[0] or None
    try:
        return importlib.metadata.version({"blas": "scipy"}.get(name, name))
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def find_library(name: str) -> Library | None:
    """The library called ``name`` (of ``LIBRARIES``), on one thread; None where it is not there."""
    return {"blas": _scipy, "mkl": _mkl, "accelerate": _accelerate}[name]()


def _scipy() -> Library:
    os.environ.setdefault("VECLIB_MAXIMUM_THREADS", "1")
    import scipy.linalg.cython_blas  # loads the BLAS that is then limited
    import threadpoolctl
    from numba.extending import get_cython_function_address

    threadpoolctl.threadpool_limits(1, user_api="blas")
    version = f"scipy {scipy.__version__}"
    for info in threadpoolctl.threadpool_info():
        home = Path(str(info.get("filepath"))).parent.name
        if info.get("user_api") == "blas" and home.startswith("scipy"):
            version += f", {info['internal_api']} {info['version']}"
            version += f" {info.get('architecture', '')}".rstrip()
    module = "scipy.linalg.cython_blas"
    found = {d: int(get_cython_function_address(module, r)) for d, r in ROUTINES.items()}
    return Library(version, found)


def _mkl() -> Library | None:
    try:
        files = importlib.metadata.files("mkl") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.name.removeprefix("lib").startswith("mkl_rt"):
            try:
                library = ctypes.CDLL(str(Path(str(file.locate())).resolve()))
                return _configured_mkl(library)
            except (OSError, AttributeError):  # for another processor, or older than these calls
                return None
    return None


def _configured_mkl(library: ctypes.CDLL) -> Library:
    library.MKL_Set_Interface_Layer(_MKL_INTERFACE_LP64)
    library.MKL_Set_Threading_Layer(_MKL_THREADING_SEQUENTIAL)
    library.MKL_CBWR_Set(_MKL_REPRODUCIBLE)
    text = ctypes.create_string_buffer(_VERSION_BYTES)
    library.MKL_Get_Version_String(text, _VERSION_BYTES)
    words = text.value.decode("ascii", "replace").split()
    version = next((word for word in words if word[:1].isdigit()), "of unknown version")
    return Library(f"MKL {version}", _addresses(library))


def _accelerate() -> Library | None:
    if sys.platform != "darwin":
        return None
    os.environ.setdefault("VECLIB_MAXIMUM_THREADS", "1")
    try:
        library = ctypes.CDLL(_ACCELERATE)
        return Library(f"Accelerate of macOS {platform.mac_ver()[0]}", _addresses(library))
    except (OSError, AttributeError):
        return None


def _addresses(library: ctypes.CDLL) -> dict[str, int]:
    """Where a library's ``sgemm_`` and ``dgemm_`` are, which count in 32 bits."""
    found = {}
    for dtype, routine in ROUTINES.items():
        address = ctypes.cast(getattr(library, f"{routine}_"), ctypes.c_void_p).value
        assert address is not None
        found[dtype] = address
    return found
