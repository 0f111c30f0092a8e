"""Files of a run that were changed: what is found, what is said, and what is accepted."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import training_runs as runs
from faults import Faults, Way

from bptool.cli.main import main
from bptool.config.load import resolve
from bptool.errors import BptoolWarning, RunError, UserError
from bptool.training.lock import RUN_LOCK, FolderLock
from bptool.training.run_folder import RunFolder
from bptool.training.run_seal import read_manifest, rewrite_config
from bptool.training.trained import open_run

OLD = Path(__file__).parent / "old_formats"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sealed")
    with pytest.MonkeyPatch.context() as patch:
        runs.make_quick(patch, folder / "cache")
        values = runs.settings(runs.write_text(folder), runs.MLP, steps=4)
        runs.train(runs.config_of(values), folder / "run", stop_at=2)
    return folder / "run"


@pytest.fixture
def run(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    runs.make_quick(monkeypatch, tmp_path / "cache")
    return Path(shutil.copytree(whole, tmp_path / "run"))


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("default", BptoolWarning)
        exit_code = main([str(argument) for argument in arguments])
    return exit_code, capsys.readouterr().err


CHANGES = {
    ("n_layer: 2", "n_layer: 1"): "model.n_layer was 2, is 1",
    ("learning_rate: 0.01", "learning_rate: 0.02"): "optimizer.learning_rate was 0.01, is 0.02",
    ("activation: tanh", "activation: relu"): "model.activation was tanh, is relu",
    ("steps: 4", "steps: 4 # as always"): "its text changed, and none of its values",
    ("n_layer: 2", "n_layer: many"): "it cannot be read any more",
}


@pytest.mark.parametrize("command", ["generate", "eval", "train", "diff", "merge"])
def test_every_command_names_what_changed_in_the_configuration(
    command: str, run: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {
        "train": ["--resume"],
        "diff": [whole],
        "merge": ["--out", tmp_path / "merged"],
    }.get(command, [])
    text = (run / "config.yaml").read_text(encoding="utf-8")
    for (old, new), words in CHANGES.items():
        change(run / "config.yaml", old, new)
        exit_code, error = said(capsys, command, run, *more)
        assert exit_code == 2, error
        (line,) = error.splitlines()
        assert f"{run / 'config.yaml'} is not as the run wrote it: {words}" in line
        assert "--accept-changes" in line
        (run / "config.yaml").write_text(text, encoding="utf-8")


def test_no_changed_digit_of_a_tokenizer_goes_unnoticed(run: Path) -> None:
    path = run / "tokenizer.json"
    text = path.read_text(encoding="utf-8")
    digits = [match.start() for match in re.finditer(r"\d", text)]
    letters = [match.start() for match in re.finditer(r"[a-z]", text)][:40]
    assert digits
    for at in (*digits, *letters):
        other = "7" if text[at] != "7" else "3"
        path.write_text(text[:at] + other + text[at + 1 :], encoding="utf-8")
        with pytest.raises(RunError, match=r"tokenizer\.json is not as the run wrote it"):
            open_run(run)


def test_no_changed_byte_of_a_manifest_goes_unnoticed(run: Path) -> None:
    path = run / "manifest.json"
    data = path.read_bytes()
    for at in range(0, len(data), 41):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(UserError):
            read_manifest(RunFolder(run))


def test_what_was_accepted_is_recorded_once_and_for_good(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_manifest(RunFolder(run))["files"]["config.yaml"]["sha256"]
    change(run / "config.yaml", "learning_rate: 0.01", "learning_rate: 0.02")
    exit_code, error = said(capsys, "generate", run, "--accept-changes", "--max-tokens", 3)
    assert exit_code == 0, error
    for _ in range(2):
        manifest = read_manifest(RunFolder(run))
        (record,) = manifest["accepted"]
        assert record == {
            "file": "config.yaml",
            "was": before,
            "now": manifest["files"]["config.yaml"]["sha256"],
            "what": "optimizer.learning_rate was 0.01, is 0.02",
        }
        assert manifest["settings"]["optimizer.learning_rate"] == "0.02"
        # the decision was that one command's, and it is not needed again
        assert said(capsys, "train", run, "--resume", "--quiet")[0] == 0
    change(run / "config.yaml", "learning_rate: 0.02", "learning_rate: 0.03")
    assert said(capsys, "generate", run)[0] == 2


def test_nothing_is_accepted_under_a_process_that_trains(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(run / "config.yaml", "learning_rate: 0.01", "learning_rate: 0.02")
    lock = FolderLock(run, RUN_LOCK)
    lock.acquire()
    try:
        exit_code, error = said(capsys, "generate", run, "--accept-changes")
    finally:
        lock.release()
    assert (exit_code, "is in use" in error) == (2, True)


def test_a_run_without_hashes_opens_with_one_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.make_quick(monkeypatch, tmp_path / "cache")
    shutil.copytree(OLD, tmp_path / "old")
    run = tmp_path / "old" / "run-2"
    exit_code, error = said(capsys, "eval", run)
    assert exit_code == 0
    (line,) = error.splitlines()
    assert line.startswith("warning: ")
    assert "was made before runs kept hashes" in line
    assert said(capsys, "eval", run, "--accept-changes") == (0, "")
    assert said(capsys, "eval", run) == (0, "")
    change(run / "config.yaml", "beta1: 0.9", "beta1: 0.8")
    assert "optimizer.beta1 was 0.9, is 0.8" in said(capsys, "eval", run)[1]


@pytest.mark.parametrize("version", ["sealed", "without hashes"])
def test_a_configuration_is_rewritten_crash_safely(
    version: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = whole if version == "sealed" else OLD / "run-2"
    monkeypatch.chdir(tmp_path)
    shutil.copytree(source, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    config = resolve(folder.config, ["training.steps=9"]).config
    none = Faults()
    with pytest.MonkeyPatch.context() as patch:
        none.install(patch)
        rewrite_config(folder, config)
    assert resolve(folder.config).config.training.steps == 9
    manifest = read_manifest(folder)
    assert manifest["settings"]["training.steps"] == "9"
    assert set(manifest["files"]["config.yaml"]) == {"sha256"}
    for number in range(len(none.calls)):
        shutil.rmtree(folder.path)
        shutil.copytree(source, folder.path)
        with pytest.MonkeyPatch.context() as patch:
            Faults(number, Way(5, lasting=True)).install(patch)
            with pytest.raises(RunError):
                rewrite_config(folder, config)
        assert _opens(folder) in (9, 12 if version == "without hashes" else 4)
        rewrite_config(folder, config)  # a second try makes good what the first left
        assert _opens(folder) == 9
        assert set(read_manifest(folder)["files"]["config.yaml"]) == {"sha256"}


def _opens(folder: RunFolder) -> Any:
    """Steps of a run that opens."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BptoolWarning)
        assert open_run(folder.path).folder.path == folder.path
    return resolve(folder.config).config.training.steps


def test_hashes_that_are_none_are_damage(run: Path) -> None:
    from bptool.training.seal import write_sealed

    value = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    for files in ([], {"config.yaml": {"sha256": "0"}}, {"config.yaml": 1, "tokenizer.json": 2}):
        write_sealed(run / "manifest.json", value | {"files": files})
        with pytest.raises(RunError, match="hashes are not those of a run"):
            open_run(run)
