"""Faults planted in the source of every backward are all reported; see planted_faults.py."""

from __future__ import annotations

import re
from pathlib import Path

import planted_faults
import pytest
from planted_faults import MODEL_FAULTS, OPERATION_FAULTS, PACKAGE, TRAINING_FAULTS

FAULTS = [*OPERATION_FAULTS, *MODEL_FAULTS, *TRAINING_FAULTS]


def test_every_backward_kernel_has_faults():
    kernels = {
        name
        for folder in ("ops", "objectives", "models")
        for path in (PACKAGE / folder).rglob("*.py")
        for name in re.findall(
            r"^@kernel\ndef (\w+_backward)\(", path.read_text(encoding="utf-8"), re.M
        )
    }
    assert len(kernels) >= 10
    assert not kernels - {fault.kernel for fault in FAULTS}, "plant some in planted_faults.py"
    assert {fault.kind for fault in FAULTS} == {"sign", "scale", "missing", "index", "mask"}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_every_edit_fits_its_file(fault):
    source = (PACKAGE / fault.file).read_text(encoding="utf-8")
    assert source.count(fault.old) == 1, "the source has changed: plant this fault anew"
    compile(source.replace(fault.old, fault.new), fault.file, "exec")


def test_an_edit_that_does_not_match_once_is_refused(tmp_path):
    (tmp_path / "bptool").mkdir()
    (tmp_path / "bptool" / "x.py").write_text("a = 1\na = 1\n", encoding="utf-8")
    fault = planted_faults.Fault("x", "sign", "x.py", "a = 1", "a = 2", ("x",))
    with pytest.raises(ValueError, match="found 2 times"):
        planted_faults.edit(tmp_path, [fault])


@pytest.mark.parametrize(
    ("check", "n_faults"),
    [
        ("operations", len(OPERATION_FAULTS)),
        ("models", len(MODEL_FAULTS)),
        ("training", len(TRAINING_FAULTS)),
    ],
)
def test_every_planted_fault_is_reported(tmp_path: Path, check: str, n_faults: int):
    outcomes, alarms = planted_faults.run_all(tmp_path, check)
    assert not alarms
    assert len(outcomes) == n_faults
    unchanged = [o.fault.name for o in outcomes if o.change <= planted_faults.CHANGED]
    assert not unchanged, "these faults did not change what the kernel computes"
    missed = [f"{o.fault.name}: {', '.join(o.silent)}" for o in outcomes if o.silent]
    assert not missed
