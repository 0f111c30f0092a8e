"""Faults planted in backwards are reported: a sample of those of
``benchmarks/reliability/planted_faults.py``, and what it makes faults of."""

from __future__ import annotations

import ast
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.reliability import planted_faults
from benchmarks.reliability.planted_faults import KINDS, PACKAGE, Fault, Judges, functions, targets

ROOT = PACKAGE.parent
EXAMPLE = '''
@kernel
def f_backward(dx, dw, dy, x, w, flag, team):
    """Adds to dw."""
    for i in range(x.shape[0]):
        if flag:
            dx[i, 0] = dy[i, 0] * w[i] + 1.0
        dw[i] += dy[i, 0] * x[i, 0]
    barrier(team)
    g_backward(dx, dy[:3], w, True)
'''


@pytest.fixture(scope="module")
def faults() -> list[Fault]:
    return [fault for place in targets(Judges()) for fault in planted_faults.faults_of(*place)]


def test_faults_of_every_kind_are_made_of_an_example() -> None:
    made = planted_faults.edits(dict(functions(ast.parse(EXAMPLE)))["f_backward"])
    assert {kind for kind, *_ in made} == set(KINDS)
    changes = [change for _, _, change, _ in made]
    assert "dw[i] += dy[i, 0] * x[i, 0] -> dw[i] = dy[i, 0] * x[i, 0]" in changes
    assert "dy[i, 0] * w[i] + 1.0 -> dy[i, 0] * w[i]" in changes
    assert "if flag -> if not flag" in changes
    assert "True -> False" in changes
    assert "g_backward(dx, dy[:3], w, True) -> pass" in changes
    assert "dy[:3] and w change places" in changes
    assert not any("barrier" in change for change in changes)


def test_every_change_is_one_of_its_own(faults: list[Fault]) -> None:
    assert {fault.kind for fault in faults} == set(KINDS)
    assert len(faults) > 1500
    assert len({fault.name for fault in faults}) == len(faults)
    for fault in random.Random(1).sample(faults, 60):
        source = ast.unparse(ast.parse((PACKAGE / fault.file).read_text(encoding="utf-8")))
        planted = planted_faults.planted(fault)
        compile(planted, fault.file, "exec")
        before, after = source.splitlines(), planted.splitlines()
        assert before != after, fault.name
        assert abs(len(before) - len(after)) <= 2, fault.name


def test_every_backward_kernel_has_faults(faults: list[Fault]) -> None:
    decorators = {"kernel", "composition", "inlined", "kernel_without_nan"}
    kernels = set()
    for room in ("ops", "objectives", "models", "regularizers"):
        for path in (PACKAGE / room).rglob("*.py"):
            for name, node in functions(ast.parse(path.read_text(encoding="utf-8"))):
                compiled = {ast.unparse(d) for d in node.decorator_list} & decorators
                if compiled and ("backward" in name or "gradient" in name):
                    kernels.add((path.relative_to(PACKAGE).as_posix(), name))
    assert len(kernels) > 30
    assert kernels <= {(fault.file, fault.function) for fault in faults}


def test_a_sample_is_reported(tmp_path: Path) -> None:
    """Of the faults of some functions, in processes with bounds checks."""
    command = [sys.executable, "-m", "benchmarks.reliability.planted_faults"]
    done = subprocess.run(
        [*command, "--seed", "5", "--functions", "4", "--count", "10"],
        cwd=ROOT,
        env={**os.environ, "BPTOOL_CACHE_DIR": str(tmp_path), "FAULTS_CACHE_DIR": str(tmp_path)},
        capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("10 of "), last
    assert "'survived': 0" in last
    assert done.stdout.count("\nreported: ") >= 5
