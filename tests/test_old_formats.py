"""Files that earlier versions wrote are read as they were meant; see ``old_formats/README.md``."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import training_runs as runs

from bptool.comparison.results import ResultsFolder
from bptool.config.load import read_study, resolve
from bptool.data import survey
from bptool.data.tokenfile import open_token_file
from bptool.data.tokenizers import load_tokenizer
from bptool.errors import DataError, UserError
from bptool.feedback.store import Store
from bptool.plugins import name_plugin
from bptool.training import engine_choice
from bptool.training.checkpoint import CheckpointStore
from bptool.training.metrics import read_metrics
from bptool.training.seal import read_sealed
from bptool.training.trained import open_run

pytestmark = pytest.mark.filterwarnings("ignore:.*was made before runs kept hashes")

OLD = Path(__file__).parent / "old_formats"
VAL_LOSS_OF_THE_WHOLE_RUN = 2.892535
"""That the version which wrote ``run-1`` found at step 12 of the same run unbroken."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs.make_quick(monkeypatch, tmp_path / "cache")


def test_a_run_of_version_1_is_opened_and_gone_on_with(tmp_path: Path) -> None:
    shutil.copytree(OLD, tmp_path / "old")
    run = tmp_path / "old" / "run-1"
    assert (open_run(run).step, open_run(run, last=True).step) == (5, 6)
    assert np.isfinite(open_run(run).weights).all()
    runs.resume(run)
    records = runs.measured(run)
    assert [r["step"] for r in records if r["kind"] == "step"] == list(range(1, 13))
    found = [r["val_loss"] for r in records if r["kind"] == "evaluation"][-1]
    assert found == pytest.approx(VAL_LOSS_OF_THE_WHOLE_RUN, abs=1e-4)
    index = CheckpointStore(run / "checkpoints").index()
    assert index.last == "step-00000012"


def test_a_token_file_of_version_1_is_read_and_a_later_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.tokens"
    shutil.copy(OLD / "tokens-1.tokens", path)
    data = path.read_bytes()
    length = int.from_bytes(data[8:16], "little")
    header = json.loads(data[16 : 16 + length])
    assert header["format_version"] == 1
    file = open_token_file(path, header["key"])
    tokenizer = load_tokenizer(OLD / "run-1" / "tokenizer.json")
    text = (OLD / "text.txt").read_text(encoding="utf-8")
    whole = tokenizer.decode(file.train) + tokenizer.decode(file.validation)
    assert (whole, len(file.train)) == (text, header["n_train"])
    del file
    changed = data.replace(b'"format_version": 1', b'"format_version": 9')
    assert changed != data
    path.write_bytes(changed)
    with pytest.raises(DataError, match=r"old\.tokens: unknown format_version; delete the file"):
        open_token_file(path, header["key"])


SAMPLES = {
    "comparison/json_report.py": (1, None),
    "comparison/results.py": (2, "results-2.jsonl"),
    "config/schema.py": (1, "run-2/config.yaml"),
    "config/study_section.py": (1, "study-1.yaml"),
    "data/survey.py": (1, "survey-1.json"),
    "data/token_writer.py": (1, "journal-1.journal"),
    "data/tokenfile.py": (1, "tokens-1.tokens"),
    "data/tokenizers/base.py": (1, "tokenizer-char-1.json"),
    "feedback/store.py": (1, "answers-1.jsonl"),
    "training/engine_choice.py": (1, "engine-1.json"),
    "training/measurements.py": (1, "measurements-1.json"),
    "training/run_folder.py": (1, "run-2/manifest.json"),
    "training/seal.py": (2, "run-2/checkpoints/index.json"),
}
"""File that names a format's version -> the version, and a sample of it; None where no program of
ours reads it back."""
_VERSION = re.compile(
    r"^(?:JOURNAL_|FORMAT_)?VERSION = (\d+)|format_version: Literal\[(\d+)\]", re.M
)


def test_every_version_of_a_format_has_a_sample() -> None:
    package = Path(__file__).parent.parent / "bptool"
    found = {}
    for path in sorted(package.rglob("*.py")):
        for match in _VERSION.finditer(path.read_text(encoding="utf-8")):
            found[path.relative_to(package).as_posix()] = int(match[1] or match[2])
    assert found == {name: version for name, (version, _) in SAMPLES.items()}
    for version, sample in SAMPLES.values():
        if sample is not None:
            text = (OLD / sample).read_bytes().decode("utf-8", errors="replace")
            assert re.search(rf"format_version\"?: {version}\b", text), sample


def _study(path: Path) -> object:
    folder = path.parent / "study"
    folder.mkdir()
    shutil.copy(path, folder / "results.jsonl")
    return ResultsFolder(folder).read().records


READERS: dict[str, Callable[[Path], object]] = {
    "answers-1.jsonl": lambda path: [j.choice for j in Store(path).judgements][:3],
    "results-2.jsonl": _study,
    "study-1.yaml": lambda path: list(read_study(path).config.optimizers),
    "run-2/config.yaml": lambda path: resolve(path).config.model.name,
    "run-2/manifest.json": lambda path: read_sealed(path, "manifest")["format_version"],
    "run-3/manifest.json": lambda path: read_sealed(path, "manifest")["format_version"],
    "run-2/metrics.jsonl": lambda path: len(read_metrics(path)) > 0,
    "tokenizer-char-1.json": lambda path: load_tokenizer(path).decode([1, 2]),
    "tokenizer-byte-1.json": lambda path: load_tokenizer(path).decode([97, 98]),
    "tokenizer-bpe-1.json": lambda path: load_tokenizer(path).vocab_size > 256,
}


@pytest.mark.parametrize("sample", READERS)
def test_a_sample_is_read_and_a_later_version_refused_in_one_line(
    tmp_path: Path, sample: str
) -> None:
    read, path = READERS[sample], tmp_path / Path(sample).name
    shutil.copy(OLD / sample, path)
    assert read(path)
    shutil.rmtree(tmp_path / "study", ignore_errors=True)
    text = path.read_bytes().decode("utf-8")
    later, n = re.subn(r"(format_version\"?: )\d+", r"\g<1>99", text, count=1)
    assert n == 1
    path.write_bytes(later.encode("utf-8"))
    with pytest.raises(UserError) as caught:
        read(path)
    assert len(str(caught.value).splitlines()) == 1
    assert path.parent.name in str(caught.value)


def test_results_of_version_1_are_refused_with_what_to_do(tmp_path: Path) -> None:
    shutil.copy(OLD / "results-1.jsonl", tmp_path / "results.jsonl")
    with pytest.raises(UserError, match="format_version 1, this bptool reads 2; begin the study"):
        ResultsFolder(tmp_path).read()


def test_what_was_measured_or_counted_by_another_version_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_choice, "cache_folder", lambda _: tmp_path)
    readers = {
        "engine-1.json": lambda path: engine_choice._remembered(path.stem),
        "survey-1.json": survey._remembered,
    }
    for sample, read in readers.items():
        path = tmp_path / sample
        shutil.copy(OLD / sample, path)
        assert read(path) is not None, sample
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace('"format_version": 1', '"format_version": 9'), "utf-8")
        assert read(path) is None, sample


def test_a_run_with_a_sealed_manifest_is_opened_and_gone_on_with(tmp_path: Path) -> None:
    for name in ("run-3", "text.txt"):
        copy = shutil.copytree if name == "run-3" else shutil.copy
        copy(OLD / name, tmp_path / name)
    run, part = tmp_path / "run-3", tmp_path / "another-name.py"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_run(run, last=True).step == 6
        with pytest.raises(UserError, match=r"add --plugin part\.py"):
            runs.resume(run)
        part.write_text("PART = 3\n", encoding="utf-8", newline="\n")
        name_plugin(part)
        runs.resume(run)
    assert open_run(run, last=True).step == 12
    change = run / "config.yaml"
    change.write_text(change.read_text(encoding="utf-8").replace("n_embd: 3", "n_embd: 4"), "utf-8")
    with pytest.raises(UserError, match=r"model\.n_embd was 3, is 4"):
        open_run(run)


def test_a_run_of_version_2_is_opened(tmp_path: Path) -> None:
    for name in ("run-2", "lora-2"):
        shutil.copytree(OLD / name, tmp_path / name)
        assert np.isfinite(open_run(tmp_path / name, last=True).weights).all()
    index = tmp_path / "run-2" / "checkpoints" / "index.json"
    text = index.read_text(encoding="utf-8")
    index.write_text(text.replace('"format_version": 2', '"format_version": 9'), encoding="utf-8")
    with pytest.raises(UserError, match="format_version 9, this bptool reads 1 and 2; update"):
        open_run(tmp_path / "run-2")
