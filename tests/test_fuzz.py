"""What the fuzzer once found stays mended, and a few hundred changed inputs of each kind give an
error of ours or none."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reliability import fuzz, fuzz_atheris, fuzz_targets
from benchmarks.reliability.fuzz_targets import Target, targets
from benchmarks.reliability.mutations import changed, from_hypothesis
from benchmarks.reliability.soak import soak
from bptool.errors import BptoolWarning, UserError

N_INPUTS, N_VALUES = 300, 75
SLOW = {"run": 30, "manifest": 30, "adapters": 60}
"""Inputs of targets that open a whole run."""
NAMES = (
    *("config", "tokenizer", "checkpoint", "run", "manifest", "adapters", "tokens", "records"),
    *("preferences", "judgements", "prompts", "text", "sources", "study", "results"),
)


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BPTOOL_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", NAMES)
def test_findings_stay_mended_and_changed_inputs_are_refused_or_read(
    name: str, tmp_path: Path
) -> None:
    target, draw = targets(tmp_path)[name], random.Random(name)
    values = from_hypothesis(N_VALUES, 1)
    new = []
    for number in range(SLOW.get(name, N_INPUTS)):
        file, valid = draw.choice(target.seeds)
        put = values[number // 4 % N_VALUES] if number % 4 == 0 else None
        new.append((file, changed(file, valid, draw, put)))
    for file, data in (*target.seeds, *fuzz.kept(name), *new):
        wrong = fuzz.finding(target, data, tmp_path / "input" / file)
        assert not wrong, (file, data[:2000], wrong)


def test_valid_files_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A target that refuses its own valid files would find nothing."""
    monkeypatch.setattr(fuzz_targets, "_all", _one)
    for target in targets(tmp_path).values():
        for file, data in target.seeds:
            path = tmp_path / "valid" / file
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
            target.read(path)


def _one(*calls: Any) -> None:
    """At least one of the calls takes the file."""
    refused = []
    for call in calls:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", BptoolWarning)
                call()
        except UserError as error:
            refused.append(error)
    assert len(refused) < len(calls), refused


def test_every_target_is_here_and_every_finding_has_one(tmp_path: Path) -> None:
    assert set(targets(tmp_path)) == set(NAMES)
    assert {path.name for path in fuzz.FINDINGS.iterdir()} <= set(NAMES)


@pytest.mark.parametrize("how", ["dies", "hangs"])
def test_a_process_that_dies_or_hangs_is_a_finding(
    how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fuzz, "FINDINGS", tmp_path)
    monkeypatch.setattr(fuzz, "HANGING_SECONDS", 0.5 if how == "hangs" else 600.0)
    monkeypatch.setattr(fuzz, "_fuzz_here", _hang if how == "hangs" else _die)
    assert fuzz.fuzz("config", 0.1, "1") == 1
    (found,) = (tmp_path / "config").iterdir()
    assert found.read_bytes() == b"deadly"


def _put_deadly(folder: Path, counts: Any) -> None:
    counts[0] += 1
    (folder / "input").mkdir()
    (folder / "input" / "c.yaml").write_bytes(b"deadly")


def _die(name: str, folder: Path, seconds: float, seed: str, counts: Any) -> None:
    _put_deadly(folder, counts)
    time.sleep(seconds)
    os._exit(3)


def _hang(name: str, folder: Path, seconds: float, seed: str, counts: Any) -> None:
    _put_deadly(folder, counts)
    time.sleep(3600)


PLANTED = """
import os, sys
from pathlib import Path
import atheris
from benchmarks.reliability import fuzz, fuzz_atheris, fuzz_targets

fuzz._reset_peak = fuzz._peak_bytes = lambda: 0  # takes most of the time of so small an input

@atheris.instrument_func
def read(path):
    data = path.read_bytes()
    if len(data) > 4 and data[0] % 16 == 2:
        if data[1] % 16 == 3:
            if data[2] % 16 == 4:
                if data[3] % 16 == 5:
                    if data[4] % 16 == 6:
                        os._exit(7)

planted = fuzz_targets.Target([("a.txt", b"aaaaaa")], read)
fuzz_targets.targets = lambda folder: {"planted": planted}
fuzz_atheris._fuzz_here("planted", Path(sys.argv[1]), 240.0, "1", [0, 0])
"""


def test_what_reaches_new_code_is_gone_on_with(root: Path, tmp_path: Path) -> None:
    """Five bytes that all have to be one of sixteen are not found by chance."""
    pytest.importorskip("atheris", reason="the fuzzer that watches code is optional")
    environment = {**os.environ, "PYTHONPATH": str(root), "FUZZ_FINDINGS": str(tmp_path / "none")}
    command = [sys.executable, "-c", PLANTED, str(tmp_path)]
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 7, ended.stderr
    (deadly,) = (tmp_path / "input").iterdir()
    assert [byte % 16 for byte in deadly.read_bytes()[:5]] == [2, 3, 4, 5, 6]


def test_the_guided_fuzzer_from_its_command(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="the fuzzer that watches code is optional")
    (tmp_path / "tokens").mkdir()  # no valid file has this name, so it is passed over
    (tmp_path / "tokens" / "0-other.bin").write_bytes(b"x")
    command = [sys.executable, "-m", "benchmarks.reliability.fuzz_atheris", "tokens", "0.03"]
    environment = {**os.environ, "PYTHONPATH": str(root), "FUZZ_SEED": "1"}
    ended = subprocess.run(
        [*command, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("seed 1\ntokens: ")
    assert int(ended.stderr.partition("new_units_added:")[2].split()[0]) > 1


@pytest.mark.parametrize(
    ("arguments", "installed", "said"),
    [
        (["tokens", "1"], False, "error: atheris is not installed; pip install atheris, or use"),
        (["tokens"], True, "error: give TARGET MINUTES"),
        (["tokns", "1"], True, "error: no target 'tokns'; known: config, "),
        (["tokens", "soon"], True, "error: 'soon' is no number of minutes"),
    ],
)
def test_the_guided_fuzzer_says_what_it_lacks(
    arguments: list[str],
    installed: bool,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["fuzz_atheris", *arguments])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: installed or None)
    with pytest.raises(SystemExit) as ended:
        fuzz_atheris.main()
    assert ended.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(said)
    assert output.err.count("\n") == 1


def test_a_reader_that_fails_is_a_finding(tmp_path: Path) -> None:
    def fails(path: Path) -> None:
        raise KeyError(path.name)

    assert "KeyError" in fuzz.finding(Target([], fails), b"", tmp_path / "input" / "a")


def test_a_short_soak_is_flat(tmp_path: Path) -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc")
    found = soak(tmp_path, 2000, looks=40)
    assert found["most_open_files"] <= found["open_files_after_a_tenth"]
    assert found["growth"] < 0.1  # 1 % is for the long one, by itself
