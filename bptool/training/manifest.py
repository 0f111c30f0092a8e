"""The manifest of a run: what its results depend on besides its configuration."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from typing import Any

import llvmlite
import numba
import numpy as np
import scipy

import bptool
from bptool import consent
from bptool.config.resume import Change
from bptool.ops import jit
from bptool.training import machine
from bptool.training.setup import Pieces
from bptool.training.update import parameter_groups

_DECIDE_THE_BITS = (
    "workers",
    "split",
    "rows_in_memory",
    "engine",
    "engine_version",
    "kernels",
    "machine.llvm_cpu",
    "machine.vector_width_bits",
    "versions.numpy",
    "versions.numba",
    "versions.llvmlite",
)


def describe(pieces: Pieces) -> dict[str, Any]:
    """The manifest of a run made of ``pieces``, as JSON values."""
    corpus = pieces.corpus
    return {
        "versions": {
            "bptool": bptool.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "numba": numba.__version__,
            "llvmlite": llvmlite.__version__,
            "scipy": scipy.__version__,
        },
        "machine": machine.describe(),
        "engine": pieces.engine.name,
        "engine_version": pieces.engine.version,
        "kernels": jit.kernel_fingerprint(),
        "workers": pieces.team.n,
        "split": pieces.sizes.split,
        "rows_in_memory": pieces.sizes.micro_rows,
        "data": {
            "text_sha256": corpus.text_sha256,
            "n_train_tokens": corpus.n_train,
            "n_validation_tokens": corpus.n_validation,
            "vocab_size": corpus.tokenizer.vocab_size,
            "split": pieces.config.data.split.model_dump(mode="json"),
        },
        "guessing_loss": pieces.lesson.guessing_loss,
        **({} if pieces.start is None else {"start": pieces.start.origin}),
        "n_parameters": pieces.model.n_parameters,
        **({} if pieces.config.lora is None else {"n_trained": pieces.model.n_trained}),
        "programs": [
            {"option": one.option, "name": one.name, "sha256": one.sha256}
            for one in consent.programs()
        ],
        "parameter_groups": parameter_groups(pieces.step.optimizer, pieces.model.layout),
    }


_FOLLOW_SETTINGS = ("workers", "split", "rows_in_memory", "engine", "engine_version")
"""Keys of a manifest that a setting may change at a resume."""


def changed_keys(
    saved: dict[str, Any], now: dict[str, Any], step: int, made: Sequence[Change]
) -> dict[str, Any]:
    """Keys of the manifest ``saved`` that differ once settings are changed after ``step``, with the
    history: what the steps up to there were trained with, and what those from there on."""
    settings = {change.key: {"was": change.was, "now": change.now} for change in made}
    history = saved.get("changes")
    history = [*(history if isinstance(history, list) else []), {"after_step": step, **settings}]
    return {**{key: now[key] for key in _FOLLOW_SETTINGS}, "changes": history}


def differences(saved: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """What differs between two manifests and decides the bits: ``workers was 2, is 1``."""
    for key in _DECIDE_THE_BITS:
        was, is_now = _value_at(saved, key), _value_at(now, key)
        if was != is_now:
            yield f"{key} was {was}, is {is_now}"


def decides_the_bits(key: str) -> bool:
    """Whether a key of a manifest, dotted, names something that decides the bits of a result."""
    return key in _DECIDE_THE_BITS or key.startswith("data.")


def _value_at(manifest: dict[str, Any], dotted: str) -> Any:
    value: Any = manifest
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value
