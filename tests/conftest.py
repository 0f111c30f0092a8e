"""What every test shares: hypothesis profiles, the kernel cache, and the demand for PyTorch."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import platformdirs
import pytest

ROOT = Path(__file__).resolve().parent.parent

# Compiling a kernel inside an example takes seconds, so no example has a deadline.
hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") == "true" else "dev")


def _kernel_cache() -> str:
    """The user's own cache, which the demo filled, or one in the project if that can't be written.

    Named in the environment so that commands run by tests as processes of their own, some with
    another home, use the same compiled kernels.
    """
    folder = platformdirs.user_cache_path("bptool") / "kernels"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return str(folder)
    except OSError:
        pass
    return str(ROOT / ".pytest_cache" / "kernels")


os.environ.setdefault("NUMBA_CACHE_DIR", _kernel_cache())
# What ``auto`` multiplies with is measured once a machine; tests must not depend on that.
os.environ.setdefault("BPTOOL_ENGINE", "tiled")
# Plots are written to files; no test needs a display.
os.environ.setdefault("MPLBACKEND", "Agg")


def pytest_sessionstart() -> None:
    """Refuse to run without PyTorch where the reference tests must not be skipped."""
    if os.environ.get("BPTOOL_REQUIRE_TORCH") == "1" and not importlib.util.find_spec("torch"):
        raise pytest.UsageError(
            "BPTOOL_REQUIRE_TORCH=1, but torch is not installed: pip install -e '.[bench]'"
        )


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Turn a skip for lack of PyTorch into a failure where the reference tests must run."""
    if os.environ.get("BPTOOL_REQUIRE_TORCH") == "1" and report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if "torch" in reason:
            report.outcome = "failed"
            report.longrepr = f"{report.nodeid} must run here: {reason}"


@pytest.fixture(autouse=True)
def _nothing_is_decided() -> None:
    """Take back what the command line of another test allowed."""
    from bptool import consent

    consent.forget()


@pytest.fixture
def registries_as_before() -> Iterator[None]:
    """Take back what a test registers, so that no other test meets it."""
    from bptool import registry

    parts = [part for part in vars(registry).values() if isinstance(part, registry.Registry)]
    for part in parts:
        part.names()
    before, modules = [dict(part._classes) for part in parts], set(sys.modules)
    yield
    for part, classes in zip(parts, before, strict=True):
        part._classes = classes
    for name in set(sys.modules) - modules:
        if name.startswith(("bptool_plugin_", "optim_test_package")):
            del sys.modules[name]


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT
