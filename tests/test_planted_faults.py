"""Faults planted in the source of every backward are all reported; see planted_faults.py."""

from __future__ import annotations

import re
from pathlib import Path

import planted_faults
import pytest
from planted_faults import PACKAGE, Fault

FAULTS = [fault for faults in planted_faults.FAULTS.values() for fault in faults]


def test_every_backward_kernel_has_faults():
    kernels = {
        name
        for folder in ("ops", "objectives", "models")
        for path in (PACKAGE / folder).rglob("*.py")
        for name in re.findall(
            r"^@(?:kernel|composition)\ndef (\w+_backward|head_\w+_gradient)\(",
            path.read_text(encoding="utf-8"),
            re.M,
        )
    }
    assert len(kernels) >= 10
    assert not kernels - {fault.kernel for fault in FAULTS}, "plant some in planted_faults.py"
    assert {fault.kind for fault in FAULTS} == {"sign", "scale", "missing", "index", "mask"}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_every_edit_fits_its_file(fault):
    source = (PACKAGE / fault.file).read_text(encoding="utf-8")
    compile(planted_faults.edited(source, fault), fault.file, "exec")


def test_an_edit_that_does_not_match_once_is_refused():
    fault = Fault("x", "sign", "x.py", "a = 1", "a = 2", ("x",))
    with pytest.raises(ValueError, match="found 2 times"):
        planted_faults.edited("a = 1\na = 1\n", fault)


@pytest.mark.parametrize("check", planted_faults.FAULTS)
def test_every_planted_fault_is_reported(tmp_path: Path, check: str):
    outcomes, alarms = planted_faults.run(tmp_path, check)
    assert not alarms
    assert len(outcomes) == len(planted_faults.FAULTS[check])
    unchanged = [o.fault.name for o in outcomes if o.change <= planted_faults.CHANGED]
    assert not unchanged, "these faults did not change what the kernel computes"
    missed = [f"{o.fault.name}: {', '.join(o.silent)}" for o in outcomes if o.silent]
    assert not missed
