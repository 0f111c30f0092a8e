"""What the processor's vector registers allow: their width, their number, the shape of a tile.

Not the processor's list of features is asked but the compiler: it is given one fused multiply-add
of 64 bytes for the processor and features that Numba compiles for (``NUMBA_CPU_NAME`` and
``NUMBA_CPU_FEATURES`` included), and its assembly shows which registers and instructions come out.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import llvmlite.binding as llvm

from bptool.ops import jit

_PROBE = """
target triple = "{triple}"
declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>)
define <16 x float> @probe(<16 x float> %a, <16 x float> %b, <16 x float> %c) {{
  %sum = call <16 x float> @llvm.fma.v16f32(<16 x float> %a, <16 x float> %b, <16 x float> %c)
  ret <16 x float> %sum
}}
"""


class VectorUnit(NamedTuple):
    """What compiled code has to multiply with."""

    name: str
    vector_bytes: int
    rows: int
    """Rows of a tile."""
    vectors: int
    """Vectors in a tile's row."""
    has_fma: bool
    """Whether a fused multiply-add is an instruction, not a library call a lane."""
    unroll: int = 1
    """Steps of K in one turn of a tile's loop."""
    ahead_bytes: int = 3072
    """How far ahead of its use a line of B is fetched; 0 where that is left to the processor."""


# (instruction in the probe's assembly, what it tells); rows * vectors sums, the vectors of B and
# one broadcast must fit the registers: 8 * 3 + 3 + 1 of 32, or 6 * 2 + 2 + 1 of 16. Twelve sums of
# AVX2 leave little room for other instructions: a loop unrolled and without fetching has 20 a step
# of K instead of 25, which matters where the other thread of the core takes half the issue slots.
_UNITS = (
    (r"vfmadd.*%zmm", VectorUnit("AVX-512", 64, 8, 3, True)),
    (r"vfmadd.*%ymm", VectorUnit("AVX2", 32, 6, 2, True, unroll=4, ahead_bytes=0)),
    (r"fmla(\.4s)?\s+v", VectorUnit("NEON", 16, 8, 3, True)),
)
_OTHER = VectorUnit("no vector FMA", 16, 6, 2, False)


def vector_unit(triple: str, cpu: str, features: str) -> VectorUnit:
    """What LLVM makes of a fused multiply-add for this processor and these features."""
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features)
    assembly = machine.emit_assembly(llvm.parse_assembly(_PROBE.format(triple=triple)))
    return next((unit for pattern, unit in _UNITS if re.search(pattern, assembly)), _OTHER)


UNIT = vector_unit(*jit.compiled_for())
"""Of the processor that kernels are compiled for."""
VECTOR_BYTES, ROWS, VECTORS = UNIT.vector_bytes, UNIT.rows, UNIT.vectors


def has_fma() -> bool:
    """Whether our own product runs at the processor's speed here; if not, a BLAS is better."""
    return UNIT.has_fma


def lanes_of(itemsize: int) -> int:
    """Elements in a vector."""
    return VECTOR_BYTES // itemsize


def panel_columns(itemsize: int) -> int:
    """Columns of a packed panel of B: the tile's width."""
    return VECTORS * lanes_of(itemsize)
