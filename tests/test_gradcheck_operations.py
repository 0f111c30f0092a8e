"""Every backward kernel and penalty has a case, and every case passes."""

from __future__ import annotations

import importlib
import pkgutil
import zlib
from types import ModuleType

import numpy as np
import pytest

import bptool.models.head_loss
import bptool.objectives
import bptool.ops
from bptool.gradient_check.check import check
from bptool.gradient_check.operations import EFFORT, cases, check_operations
from bptool.objectives.mixed import Mixed
from bptool.registry import objectives, regularizers
from bptool.regularizers.base import Penalty

pytestmark = pytest.mark.quick

CASES = list(cases())


def kernels_of(module: ModuleType) -> set[str]:
    """Names of the compiled functions that a module itself defines."""
    return {
        name
        for name, value in vars(module).items()
        if hasattr(value, "py_func") and value.py_func.__module__ == module.__name__
    }


def kernels(package: ModuleType) -> set[str]:
    """Names of the kernels that a package's own modules define."""
    modules = pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    return {k for module in modules for k in kernels_of(importlib.import_module(module.name))}


def test_every_backward_kernel_has_a_case():
    backward = {k for p in (bptool.ops, bptool.objectives) for k in kernels(p) if "_backward" in k}
    assert "attention_backward" in backward
    assert "next_token_backward" in backward
    head = kernels_of(bptool.models.head_loss)
    backward |= {k for k in head if "_backward" in k or "_gradient" in k}
    assert {"head_logprobs_backward", "head_loss_and_gradient"} <= backward
    covered = {kernel for case in CASES for kernel in case.covers}
    assert not backward - covered, "give these a case in bptool/gradient_check/operations.py"


def test_every_objective_has_a_case():
    covered = {case.name for case in CASES}
    assert {f"objective {name}" for name in [*objectives.names(), Mixed.name]} <= covered


def test_every_penalty_has_a_case():
    covered = {case.name for case in CASES}
    penalties = [n for n in regularizers.names() if issubclass(regularizers.get(n), Penalty)]
    assert {f"regularizer {name}" for name in penalties} <= covered


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_operation_has_the_gradient_it_claims(case):
    function = case.make(np.random.default_rng(zlib.crc32(case.name.encode())))
    assert function.name == case.name
    report = check(function, effort=EFFORT)
    assert report.ok, report.failures()
    for tensor in report.tensors:
        assert tensor.note == ""
        assert tensor.taylor is not None
        assert tensor.taylor.verdict == "ok", tensor


def test_all_are_checked_in_one_call_and_heard_of_one_by_one():
    heard: list[str] = []
    reports = check_operations(seed=1, on_report=lambda report: heard.append(report.name))
    assert heard == [case.name for case in CASES]
    assert all(report.ok for report in reports), [r.failures() for r in reports if not r.ok]
