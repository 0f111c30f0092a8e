"""Which vectors the product is compiled for, on this machine and as if on others."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pytest
from numba import types
from numba.core.registry import cpu_target

from bptool.ops.matmul import MatmulEngine, matmul, tiled_engine
from bptool.ops.matmul.blocked import _routine, compiled
from bptool.ops.matmul.target import UNIT, has_fma, vector_unit

IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
only_x86 = pytest.mark.skipif(not IS_X86, reason="another processor of the same family is named")

LINUX, ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"


@pytest.mark.parametrize(
    ("triple", "cpu", "features", "name", "vector_bytes"),
    [
        (LINUX, "znver4", "", "AVX-512", 64),
        (LINUX, "sapphirerapids", "", "AVX-512", 64),
        (LINUX, "skylake-avx512", "", "AVX-512", 64),
        (LINUX, "znver4", "-avx512f", "AVX2", 32),
        (LINUX, "haswell", "", "AVX2", 32),
        (LINUX, "haswell", "+avx512f", "AVX-512", 64),
        (LINUX, "skylake", "", "AVX2", 32),
        (LINUX, "bdver2", "", "AVX2", 32),
        (LINUX, "sandybridge", "", "no vector FMA", 16),
        (LINUX, "nehalem", "", "no vector FMA", 16),
        (LINUX, "generic", "", "no vector FMA", 16),
        ("x86_64-pc-windows-msvc", "haswell", "", "AVX2", 32),
        ("x86_64-apple-macosx", "haswell", "", "AVX2", 32),
        (ARM, "generic", "", "NEON", 16),
        (ARM, "neoverse-v1", "", "NEON", 16),
        ("arm64-apple-macosx", "apple-m1", "", "NEON", 16),
        ("powerpc64le-unknown-linux-gnu", "pwr9", "", "no vector FMA", 16),
    ],
)
def test_vectors_of_known_processors(
    triple: str, cpu: str, features: str, name: str, vector_bytes: int
) -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        llvm.Target.from_triple(triple)
    except RuntimeError as error:
        pytest.skip(f"this LLVM was built without it: {error}")
    unit = vector_unit(triple, cpu, features)
    assert (unit.name, unit.vector_bytes) == (name, vector_bytes)
    assert unit.has_fma == (name != "no vector FMA")


def test_sums_fit_the_registers() -> None:
    n_registers = 32 if UNIT.name in ("AVX-512", "NEON") else 16
    assert UNIT.rows * UNIT.vectors + UNIT.vectors + 1 <= n_registers


def test_the_unit_is_that_of_the_processor_numba_compiles_for() -> None:
    assert vector_unit(*cpu_target.target_context.codegen().magic_tuple()) == UNIT
    assert has_fma() == UNIT.has_fma


def test_the_disk_cache_keeps_float32_and_float64_apart() -> None:
    compiled("float32")
    compiled("float64")
    for dtype, real in (("float64", types.float64), ("float32", types.float32)):
        again = _routine(real)
        assert again.cache_hits == 1, "it was compiled above, so it must come from the disk"
        a = np.arange(6, dtype=dtype).reshape(2, 3) + np.dtype(dtype).type(1e-5)
        out = np.empty((2, 2), dtype)
        engine = MatmulEngine(int(again.address), tiled_engine(dtype).scratch)
        matmul(engine, out, a, False, a, True, False)
        error = np.abs(out - a.astype(np.float64) @ a.T.astype(np.float64)).max()
        assert error <= 50 * 3 * np.finfo(dtype).eps


def run_as(cpu: str, arguments: list[str], root: Path) -> str:
    """Run Python with kernels compiled for another processor, in the same cache of kernels."""
    environment = {**os.environ, "NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": ""}
    environment["PYTHONPATH"] = str(root)
    environment.pop("BPTOOL_ENGINE", None)
    finished = subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@only_x86
@pytest.mark.skipif(not has_fma(), reason="needs a processor that has AVX2")
def test_products_of_avx2(root: Path) -> None:
    """A wider machine runs the narrower path too; 'tile' and 'unit' name the tests that matter."""
    files = ["tests/test_matmul.py", "tests/test_matmul_target.py"]
    chosen = "(edge and float32) or numba_compiles_for or fit_the_registers or cut or infinity"
    output = run_as(
        "haswell", ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, *files], root
    )
    assert " passed" in output
    unit = "from bptool.ops.matmul.target import UNIT; print(UNIT.name, UNIT.rows, UNIT.vectors)"
    assert run_as("haswell", ["-c", unit], root).split() == ["AVX2", "6", "2"]


@only_x86
def test_without_fma_a_blas_multiplies_and_ours_is_still_right(root: Path) -> None:
    program = """
import numpy as np
from bptool.ops.matmul import matmul, tiled_engine
from bptool.ops.matmul.target import UNIT, has_fma
from bptool.training.machine import choose_engine
assert not has_fma() and UNIT.vector_bytes == 16
assert choose_engine("auto").name != "tiled"
rng = np.random.default_rng(0)
for m, n, k in ((7, 9, 5), (20, 33, 70)):
    a, b = (rng.integers(-4, 5, shape).astype(np.float32) for shape in ((m, k), (n, k)))
    out = np.empty((m, n), np.float32)
    matmul(tiled_engine("float32"), out, a, False, b, True, False)
    assert (out == a @ b.T).all()
print("done")
"""
    assert run_as("nehalem", ["-c", program], root).strip() == "done"
