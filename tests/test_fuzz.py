"""What the fuzzer once found stays mended, and a few hundred changed inputs of each kind give an
error of ours or none."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.reliability import fuzz
from benchmarks.reliability.soak import soak

N_INPUTS = 300
NAMES = ("config", "tokenizer", "checkpoint", "run", "records", "prompt")


@pytest.mark.parametrize("name", NAMES)
def test_findings_stay_mended_and_changed_inputs_are_refused_or_read(
    name: str, tmp_path: Path
) -> None:
    target, draw = fuzz.targets(tmp_path)[name], random.Random(name)
    kept = [path.read_bytes() for path in sorted((fuzz.FINDINGS / name).glob("*"))]
    new = (fuzz.changed(draw.choice(target.seeds), draw) for _ in range(N_INPUTS))
    for data in (*target.seeds, *kept, *new):
        wrong = fuzz.finding(target, data, tmp_path / "input")
        assert not wrong, (data[:2000], wrong)


def test_every_target_is_here(tmp_path: Path) -> None:
    assert set(fuzz.targets(tmp_path)) == set(NAMES)


def test_a_reader_that_fails_is_a_finding(tmp_path: Path) -> None:
    def fails(path: Path) -> None:
        raise KeyError(path.name)

    assert "KeyError" in fuzz.finding(fuzz.Target([b""], fails), b"", tmp_path / "input")


def test_a_short_soak_is_flat(tmp_path: Path) -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc")
    found = soak(tmp_path, 2000, looks=40)
    assert found["most_open_files"] <= found["open_files_after_a_tenth"]
    assert found["growth"] < 0.1  # 1 % is for the long one, by itself
