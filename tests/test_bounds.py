"""What a file or a number may cost is bounded, whoever wrote it; and what is named need not be a
file, nor have a name of UTF-8."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_runs as runs

from bptool import files
from bptool.cli.main import main
from bptool.data.preference_set import Document, Unit, UnitBatches
from bptool.data.tokenizers import load_tokenizer
from bptool.data.tokenizers.bpe import BpeConfig, BpeTokenizer
from bptool.errors import DataError, RunError, UserError
from bptool.training.checkpoint import load_state, write_folder
from bptool.training.tensor_file import read_tensors, sha256_of, write_tensors
from bptool.training.trained import open_run

OLD = Path(__file__).parent / "old_formats"


def command(folder: Path, *arguments: str | bytes, **options: Any) -> tuple[int, str]:
    """Exit code and what is written of ``bptool`` in a process of its own; TimeoutExpired if it
    waits for something."""
    environment = {**os.environ, "BPTOOL_CACHE_DIR": str(folder / "cache")}
    words: list[str | bytes] = [sys.executable, "-m", "bptool", *arguments]
    done = subprocess.run(
        words,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=240,
        check=False,
        **options,
    )
    return done.returncode, (done.stdout + done.stderr).decode("utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a run, a text, and a configuration of a small model."""
    shutil.copytree(OLD / "run-2", tmp_path / "run")
    runs.seal(tmp_path / "run")
    values = runs.settings(runs.write_text(tmp_path), runs.MLP, steps=4, eval_interval=2)
    runs.write_config(tmp_path, values)
    return tmp_path


def bpe(merges: list[list[int]]) -> dict[str, Any]:
    return {"format_version": 1, "tokenizer": "bpe", "special_tokens": [], "merges": merges}


@pytest.mark.parametrize("n_merges", [17, 40, 400])
def test_merges_that_double_each_other_cost_no_memory(tmp_path: Path, n_merges: int) -> None:
    path = tmp_path / "tokenizer.json"
    merges = [[97, 97], *([i, i] for i in range(256, 255 + n_merges))]
    path.write_text(json.dumps(bpe(merges)), encoding="utf-8")
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="makes a piece of 131,072 bytes"):
            load_tokenizer(path)
        assert tracemalloc.get_traced_memory()[1] < 3 * 2**20
    finally:
        tracemalloc.stop()


def test_pieces_of_the_largest_size_are_bounded_together(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    merges = [[97, 97], *([i, i] for i in range(256, 270))]  # to 2^15 bytes
    merges += [[270, byte] for byte in range(256)] * 9
    path.write_text(json.dumps(bpe(merges)), encoding="utf-8")
    with pytest.raises(DataError, match="of all pieces"):
        load_tokenizer(path)


def test_what_is_learnt_of_one_long_word_can_be_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bptool.data.tokenizers.bpe.MAX_PIECE_BYTES", 64)
    made = BpeTokenizer.train(["a" * 2000], BpeConfig(vocab_size=300))
    made.save(tmp_path / "tokenizer.json")
    again = load_tokenizer(tmp_path / "tokenizer.json")
    assert 16 <= max(made.token_bytes()) <= 64
    assert again.decode(again.encode("a" * 999)) == "a" * 999


def test_the_steps_of_many_epochs_are_not_counted_one_by_one() -> None:
    document = Document(np.zeros(8, np.int32), 1)
    units = [Unit(document, document, 0, (), "")] * 3000
    batches = UnitBatches(units, 16, 4, 0, scored=False)
    drawn: list[int] = []
    divide = batches._divide
    batches._divide = lambda epoch: [drawn.append(epoch), divide(epoch)][1]  # type: ignore[method-assign, func-returns-value]
    one = batches.steps(1)
    assert batches.steps(1_000_000) == 1_000_000 * one
    assert len(drawn) < 20


@pytest.mark.parametrize("epochs", ["1000000000000", "1e400", "nan", "-1", "0"])
def test_epochs_without_end_are_refused(
    folder: Path, epochs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"})
    (folder / "p.jsonl").write_text(line + "\n", encoding="utf-8")
    for method in ("dpo", "reward", "sft"):
        words = ["finetune", method, str(folder / "run"), "--data", str(folder / "p.jsonl")]
        assert main([*words, "--epochs", epochs]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "--epochs" in error


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_what_is_no_regular_file_is_refused_without_waiting(folder: Path) -> None:
    for name in ("text.fifo", "c.yaml", "r.jsonl", "r.jsonl.gz", "p.py"):
        os.mkfifo(folder / name)
    shutil.copytree(folder / "run", folder / "other")
    for arguments in (
        ("train", "text.fifo"),
        ("train", "/dev/zero"),
        ("train", "c.yaml"),
        ("data", "inspect", "r.jsonl"),
        ("finetune", "sft", "run", "--data", "r.jsonl"),
        ("finetune", "dpo", "run", "--data", "r.jsonl.gz"),
        ("feedback", "run", "--prompts", "text.fifo", "--out", "j.jsonl"),
        ("feedback", "run", "--prompts", "text.txt", "--out", "text.fifo"),
        ("feedback", "run", "--prompts", "text.txt", "--out", "j.jsonl", "--judge", "p.py"),
        ("generate", "run", "--plugin", "p.py"),
    ):
        code, output = command(folder, *arguments)
        assert code == 2, output
        assert output.startswith("error: "), output
        assert output.count("\n") == 1, output
    for name in ("manifest.json", "config.yaml", "tokenizer.json", "metrics.jsonl", "run.lock"):
        shutil.rmtree(folder / "other")
        shutil.copytree(folder / "run", folder / "other")
        (folder / "other" / name).unlink(missing_ok=True)
        os.mkfifo(folder / "other" / name)
        code, output = command(folder, "train", "other", "--resume")
        assert code == 2, output
        assert output.count("error: ") == 1, output


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data + b"\0" * 8, "8 bytes follow its end"),
        (lambda data: data.replace(b'"b":', b'"a":'), "is given twice"),
        (lambda data: data.replace(b"[8,16]", b"[0, 8]"), "overlap or leave a gap"),
    ],
    ids=["trailing bytes", "duplicate keys", "overlapping tensors"],
)
def test_a_safetensors_file_is_exactly_its_tensors(
    tmp_path: Path, change: Callable[[bytes], bytes], says: str
) -> None:
    path = tmp_path / "weights.safetensors"
    tensors = {name: np.ones(2, np.float32) for name in "abc"}
    read_tensors(path, tensors, write_tensors(path, tensors))
    data = path.read_bytes()
    changed = change(data)
    assert changed != data
    path.write_bytes(changed)
    with pytest.raises(UserError, match=says):
        read_tensors(path, tensors, sha256_of(path))


def with_weights(run: Path, value: float) -> None:
    """Put ``value`` into the weights of every checkpoint, under hashes that fit."""
    opened = open_run(run)
    weights = {k: v.copy() for k, v in opened.model.layout.named(opened.weights).items()}
    list(weights.values())[1].reshape(-1)[-1] = value
    for checkpoint in (run / "checkpoints").glob("step-*"):
        state = load_state(checkpoint)
        state.pop("format_version")
        kept = (checkpoint / "optimizer.safetensors").read_bytes()
        write_folder(checkpoint, {"weights.safetensors": weights}, state)
        (checkpoint / "optimizer.safetensors").write_bytes(kept)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(
    folder: Path, value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder / "run"
    with_weights(run, value)
    (folder / "p.jsonl").write_text('{"text": "ab"}\n', encoding="utf-8")
    for arguments in (
        ["generate", str(run)],
        ["eval", str(run)],
        ["chat", str(run)],
        ["finetune", "sft", str(run), "--data", str(folder / "p.jsonl")],
        ["train", str(folder / "text.txt"), "--from", str(run)],
    ):
        assert main(arguments) == 2, arguments
        found = capsys.readouterr()
        assert found.err.count("\n") == 1
        assert "holds numbers that are not finite" in found.err
        assert "'" in found.err  # the tensor's name


def test_a_configuration_of_another_size_asks_for_no_memory(folder: Path) -> None:
    path = folder / "run" / "config.yaml"
    text = path.read_text(encoding="utf-8")
    for size in ("n_hidden: 4", "n_embd: 3"):
        assert size in text
        text = text.replace(size, f"{size[:-1]}65536")
    path.write_text(text, encoding="utf-8")
    runs.seal(folder / "run")
    tracemalloc.start()
    try:
        with pytest.raises(RunError):
            open_run(folder / "run")
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' is given twice"),
        ("[" * 200_000, "nested too deeply"),
        ('{"a": ' * 200_000, "nested too deeply"),
        ("1" * 10_000, "a number of thousands of digits"),
        ("{", "Expecting property name"),
    ],
    ids=["a key twice", "deep lists", "deep objects", "a huge number", "unfinished"],
)
def test_json_that_readers_disagree_on_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        files.loads_strictly(text)
    with pytest.raises(ValueError, match=says):
        files.loads_strictly(text.encode())


@pytest.mark.parametrize("name", ["manifest.json", "tokenizer.json", "checkpoints/index.json"])
@pytest.mark.parametrize("twice", [True, False])
def test_files_of_a_run_are_read_strictly(folder: Path, name: str, twice: bool) -> None:
    path = folder / "run" / name
    text = path.read_text(encoding="utf-8")
    changed = text.replace("{", '{"format_version": 1,', 1) if twice else "[" * 100_000
    path.write_text(changed, encoding="utf-8")
    if name == "tokenizer.json":
        runs.seal(folder / "run")
    with pytest.raises(UserError, match="given twice" if twice else "nested too deeply"):
        open_run(folder / "run")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_not_utf_8_works_or_is_one_line(folder: Path) -> None:
    odd = b"b\xffk"
    text = (folder / "text.txt").read_bytes()
    os.mkdir(os.fsencode(folder) + b"/" + odd)
    for place in (odd + b".txt", odd + b"/" + odd + b".txt"):
        with open(os.fsencode(folder) + b"/" + place, "wb") as file:
            file.write(text)
    code, output = command(folder, "train", b"no" + odd)
    assert (code, output.count("\n")) == (2, 1)
    assert r"nob\xffk" in output
    sizes = ["model.n_layer=1", "model.n_embd=8", "model.n_head=1", "training.steps=2"]
    small = [word for size in sizes for word in ("--set", size)]
    code, output = command(folder, "train", odd + b".txt", *small, "--out", b"o" + odd)
    assert code == 0, output
    assert r"run folder: ob\xffk" in output
    more = ("--set", "training.steps=3")
    for arguments in (
        ("train", b"o" + odd, "--resume", *more),
        ("generate", b"o" + odd, "--max-tokens", "3"),
        ("eval", b"o" + odd, "--json"),
        ("data", "inspect", odd, "--json"),
        ("diff", b"o" + odd, b"o" + odd),
    ):
        code, output = command(folder, *arguments)
        assert code == 0, output


EXHAUSTING = """
import os, resource, sys
opened = 0
def count(event, arguments):
    global opened
    if event == "open" and isinstance(arguments[0], str) and "/out" in f"/{arguments[0]}":
        opened += 1
        if opened == int(sys.argv[1]):
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, LIMIT))
LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
sys.addaudithook(count)
from bptool.cli.main import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts a process's open files as Linux does")
@pytest.mark.parametrize("n", [1, 8, 20, 30, 40])
def test_a_process_without_free_descriptors_says_so_and_loses_nothing(folder: Path, n: int) -> None:
    words = [sys.executable, "-c", EXHAUSTING, str(n), "train", "config.yaml", "--out", "out"]
    done = subprocess.run(words, cwd=folder, capture_output=True, timeout=240, check=False)
    error = done.stderr.decode("utf-8")
    if done.returncode != 0:  # else it ended before
        assert done.returncode == 2, error
        assert error.splitlines()[-1].startswith("error: "), error
        assert "files" in error.splitlines()[-1], error
        assert "Traceback" not in error
    if (folder / "out" / "manifest.json").exists():
        assert main(["train", str(folder / "out"), "--resume", "--quiet"]) == 0
        assert open_run(folder / "out", last=True).step == 4
