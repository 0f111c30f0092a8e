"""What the processor's vector registers allow: their width, and the shape of a tile."""

from __future__ import annotations

import os

import llvmlite.binding as llvm

def vector_bytes() -> int:
    """Width of the vector registers kernels are compiled for: 64, 32 or 16 bytes."""
    features = _features()
    if features.get("avx512f"):
        return 64
    return 32 if features.get("avx2") else 16


def has_fma() -> bool:
    """Whether a fused multiply-add is an instruction, not a library call a lane."""
    return bool(_features().get("fma")) or llvm.get_process_triple().startswith(
        ("aarch64", "arm64")
    )


def _features() -> dict[str, bool]:
    named = os.environ.get("NUMBA_CPU_FEATURES")
    if named:
        return {item[1:]: item[0] == "+" for item in named.split(",") if item}
    cpu = os.environ.get("NUMBA_CPU_NAME")
    if cpu in ("haswell", "skylake"):
        return {"avx2": True, "fma": True}
    return dict(llvm.get_host_cpu_features())


VECTOR_BYTES = vector_bytes()
ROWS, VECTORS = {64: (8, 3), 32: (6, 2), 16: (8, 3)}[VECTOR_BYTES]
"""24 + 3 + 1 of 32 registers (AVX-512, NEON), or 12 + 2 + 1 of 16 (AVX2)."""


def lanes_of(itemsize: int) -> int:
    """Elements in a vector."""
    return VECTOR_BYTES // itemsize


def panel_columns(itemsize: int) -> int:
    """Columns of a packed panel of B: the tile's width."""
    return VECTORS * lanes_of(itemsize)
