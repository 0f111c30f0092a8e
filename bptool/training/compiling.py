"""Compiling a run's kernels before its first step, so that none is in a step's time."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from bptool.ops import jit
from bptool.training.events import Compiling
from bptool.training.setup import Pieces


def compile_kernels(
    pieces: Pieces, emit: Callable[[Compiling], None], writes: bool = False
) -> None:
    """Compile every kernel, or load it from the cache, and say so.

    ``writes``: also what the lesson needs beyond the step, and what writes samples.
    """
    what = f"kernels of {pieces.config.model.name}"
    emit(Compiling(what, done=False))
    start = time.perf_counter()
    with jit.compilations() as compiled:
        pieces.step.compile()
        if writes:
            pieces.lesson.compile()
            decoder = pieces.model.decoder(pieces.step.params, 1, pieces.team)
            decoder.add(1)
            decoder.append([np.zeros(1, np.int32)])
    seconds = time.perf_counter() - start
    emit(Compiling(what, done=True, seconds=seconds, cached=not compiled))
