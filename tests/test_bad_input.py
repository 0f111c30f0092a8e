"""Every mistake a user can make ends in one clear line and exit code 2, and leaves no litter."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import training_runs as runs

from bptool import files
from bptool.cli.main import main
from bptool.training.run_folder import RunFolder
from bptool.training.run_seal import reseal
from bptool.training.seal import read_sealed, write_sealed

Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs.make_quick(monkeypatch, tmp_path / "cache")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must be refused; returns its line of error."""

    def run(*arguments: str | Path, traces: tuple[str, ...] = ()) -> str:
        capsys.readouterr()
        before = runs.snapshot(tmp_path)
        code = main([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        assert code == 2, shown.err
        assert shown.out == ""
        assert shown.err.startswith("error: ")
        assert shown.err.count("\n") == 1, shown.err
        after = runs.snapshot(tmp_path)
        new = {name for name in after.keys() - before.keys() if not name.startswith("cache")}
        assert new == set()
        assert {name: after[name] for name in before} == before
        assert not [name for name in after if files.TEMPORARY_PREFIX in name]
        return shown.err

    return run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return runs.write_config(tmp_path, runs.settings(runs.write_text(tmp_path), runs.GPT2))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text and a run ``run`` of three steps on it. To be copied, not changed."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        runs.make_quick(patch, folder / "cache")
        values = runs.settings(runs.write_text(folder), runs.GPT2, steps=3)
        runs.train(runs.config_of(values), folder / "run")
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A run of its own for a test to damage."""
    shutil.copytree(finished / "run", tmp_path / "run")
    return tmp_path / "run"


TEXTS: dict[str, tuple[bytes | None, list[str]]] = {
    "missing": (None, ["bad.txt: no such file"]),
    "empty": (b"", ["bad.txt: the file is empty"]),
    "only a byte order mark": (b"\xef\xbb\xbf", ["bad.txt: the file is empty"]),
    "binary": (b"abc\0def" * 50, ["bad.txt, line 1: not a text file", "byte 3"]),
    "not UTF-8": (b"one\ntwo\nthr\xe9e " * 40, ["bad.txt, line 3: byte 0xE9 at offset 11"]),
    "shorter than a context": (b"abcdef", ["bad.txt", "needs at least"]),
    "one kind of character": (b"a" * 4000, ["bad.txt", "at least two different characters"]),
}


@pytest.mark.parametrize("case", TEXTS.values(), ids=TEXTS)
def test_a_text_that_cannot_be_trained_on(case: Any, config: Path, refused: Refused) -> None:
    data, words = case
    if data is not None:
        Path("bad.txt").write_bytes(data)
    for arguments in (["bad.txt"], [config, "--text", "bad.txt"]):
        error = refused("train", *arguments, "--out", "new")
        for word in words:
            assert word in error


def test_a_folder_or_a_missing_data_set_is_no_text(config: Path, refused: Refused) -> None:
    Path("folder").mkdir()
    assert "folder: the folder holds nothing to read" in refused(
        "train", config, "--text", "folder"
    )
    assert "folder: the folder holds nothing to read" in refused("train", "folder")
    assert "'no-such-set'" in refused("train", "dataset:no-such-set")


SETTINGS: dict[str, tuple[str, list[str]]] = {
    "heads that do not divide the width": (
        "model.n_head=3",
        ["n_head 3 does not divide n_embd 16; n_head 2 would"],
    ),
    "negative size": ("model.n_layer=-1", ["model.n_layer", "-1"]),
    "no context": ("model.context=0", ["model.context", "0"]),
    "fraction": ("training.batch_size=1.5", ["training.batch_size", "1.5"]),
    "beyond any bound": ("model.n_embd=1000000000000", ["model.n_embd", "1000000000000"]),
    "dropout of one": ("model.dropout=1.0", ["dropout"]),
    "infinite rate": ("optimizer.learning_rate=.inf", ["optimizer.learning_rate"]),
    "unknown key": ("model.n_layers=2", ["n_layers", "bptool calls it model.n_layer"]),
    "unknown engine": ("training.engine=bla", ["training.engine", "did you mean 'blas'?"]),
    "unknown model": ("model.name=gpt3", ["unknown model 'gpt3'; did you mean 'gpt2'?"]),
    "uneven micro-batch": ("training.micro_batch_size=4", ["4 does not divide batch_size 6"]),
    "vocabulary of one": ("data.tokenizer={name: bpe, vocab_size: 1}", ["vocab_size", "1"]),
    "context beyond the text": ("model.context=4000", ["text.txt", "context of 4000 needs"]),
    "unknown character in the prompt": ("sample.prompt=ÿ", ["sample.prompt", "'ÿ' (U+00FF)"]),
}


@pytest.mark.parametrize("case", SETTINGS.values(), ids=SETTINGS)
def test_a_setting_that_cannot_be(case: Any, config: Path, refused: Refused) -> None:
    change, words = case
    error = refused("train", config, "--set", change, "--out", "new")
    for word in words:
        assert word in error


@pytest.mark.parametrize(
    "sets",
    [
        ["model.n_embd=65536", "model.n_layer=1000"],
        ["training.batch_size=10000000"],
        ["training.batch_size=6000000", "training.micro_batch_size=6000000"],
    ],
)
@pytest.mark.parametrize("also", [[], ["--plan"]])
def test_absurd_sizes_name_the_memory_they_need_before_taking_it(
    sets: list[str], also: list[str], config: Path, refused: Refused
) -> None:
    options = [word for change in sets for word in ("--set", change)]
    error = refused("train", config, "--out", "new", *options, *also)
    assert re.search(
        r"this needs [\d.e+]+ [GTP]B of memory and the machine has [\d.]+ [GT]B", error
    )
    assert "parameters" in error


def test_a_folder_that_is_taken(config: Path, refused: Refused) -> None:
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine", encoding="utf-8")
    Path("file").write_text("mine", encoding="utf-8")
    assert "full is not empty and holds no run" in refused("train", config, "--out", "full")
    assert "file is a file" in refused("train", config, "--out", "file")
    assert "file/run cannot be written" in refused("train", config, "--out", "file/run")


def test_a_run_is_not_written_over(config: Path, run: Path, refused: Refused) -> None:
    error = refused("train", config, "--out", run)
    assert f"{run} already holds a run" in error
    assert "--resume" in error


def test_no_run_is_there(refused: Refused) -> None:
    Path("empty").mkdir()
    for command in ("generate", "eval"):
        assert "there is no run folder nowhere" in refused(command, "nowhere")
        assert "empty holds no run" in refused(command, "empty")
    assert "empty holds no run" in refused("train", "empty", "--resume")


def _checkpoint(run: Path) -> Path:
    return run / "checkpoints" / "step-00000003"


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def _edit(path: Path, **changes: Any) -> None:
    value = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(value), encoding="utf-8")


def _seal(path: Path, **changes: Any) -> None:
    """An edit by someone who knows the format."""
    write_sealed(path, json.loads(path.read_text(encoding="utf-8")) | changes)


def _reseal(run: Path) -> None:
    """The same for the files beside a manifest."""
    folder = RunFolder(run)
    reseal(folder, read_sealed(folder.manifest, "manifest"))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit of the weights": (
        lambda run: _flip(_checkpoint(run) / "weights.safetensors"),
        "weights.safetensors is damaged: its sha256",
    ),
    "weights cut off": (
        lambda run: _cut(_checkpoint(run) / "weights.safetensors"),
        "weights.safetensors is damaged: its sha256 is not that of what was written",
    ),
    "no weights": (
        lambda run: (_checkpoint(run) / "weights.safetensors").unlink(),
        "weights.safetensors cannot be read: No such file",
    ),
    "no checkpoint": (
        lambda run: shutil.rmtree(_checkpoint(run)),
        "state.json is missing; restore it from a copy of the run; no other checkpoint is whole",
    ),
    "no index": (lambda run: (run / "checkpoints/index.json").unlink(), "holds no checkpoint"),
    "index that leads elsewhere": (
        lambda run: _seal(run / "checkpoints/index.json", best="../../elsewhere"),
        "not a checkpoint's name",
    ),
    "index of a later version": (
        lambda run: _edit(run / "checkpoints/index.json", format_version=9),
        "index.json has format_version 9, this bptool reads 1 and 2; update bptool",
    ),
    "index that is no JSON": (lambda run: _cut(run / "checkpoints/index.json"), "cannot be read"),
    "state": (lambda run: _cut(_checkpoint(run) / "state.json"), "state.json cannot be read"),
    "step": (
        lambda run: _seal(_checkpoint(run) / "state.json", step="many"),
        "state.json is damaged: 'step' is 'many'",
    ),
    "manifest": (lambda run: (run / "manifest.json").write_bytes(b"\xff"), "manifest.json cannot"),
    "tokenizer": (lambda run: _cut(run / "tokenizer.json"), "tokenizer.json"),
    "configuration": (lambda run: (run / "config.yaml").write_text("model: ["), "config.yaml"),
    "no configuration": (lambda run: (run / "config.yaml").unlink(), "config.yaml"),
}


@pytest.mark.parametrize("case", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_run(case: Any, run: Path, refused: Refused) -> None:
    damage, words = case
    damage(run)
    for arguments in (["generate", run], ["eval", run, "--last"], ["generate", run, "--json"]):
        assert words in refused(*arguments)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: _flip(_checkpoint(run) / "optimizer.safetensors"), "is damaged: its sha256"),
        (
            lambda run: _seal(_checkpoint(run) / "state.json", best_val_loss="low"),
            "'best_val_loss' is 'low'",
        ),
        (lambda run: _edit(run / "manifest.json", workers=None), "manifest.json is damaged"),
        (lambda run: (run / "metrics.jsonl").write_text("{}\n{}\n"), "metrics.jsonl"),
        (lambda run: (run / "metrics.jsonl").write_text("x\n{}\n"), "metrics.jsonl:1 is not JSON"),
    ],
)
def test_a_run_too_damaged_to_resume(
    damage: Callable[[Path], object], words: str, run: Path, refused: Refused
) -> None:
    config = (run / "config.yaml").read_text(encoding="utf-8")
    (run / "config.yaml").write_text(config.replace("workers: 2", "workers: auto"))
    _reseal(run)
    damage(run)
    assert words in refused("train", run, "--resume")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("n_layer: 2", "n_layer: 3", "of another model"),
        ("n_layer: 2", "n_layer: 1", "this one has no tensor 'h.1."),
        ("n_embd: 16", "n_embd: 32", "of another model"),
        ("tie_embeddings: true", "tie_embeddings: false", "no tensor 'lm_head.weight'"),
    ],
)
def test_a_checkpoint_of_another_model(
    old: str, new: str, words: str, run: Path, refused: Refused
) -> None:
    text = (run / "config.yaml").read_text(encoding="utf-8")
    assert old in text
    (run / "config.yaml").write_text(text.replace(old, new), encoding="utf-8")
    _reseal(run)
    for arguments in (["generate", run], ["eval", run], ["train", run, "--resume"]):
        error = refused(*arguments)
        assert "of another model" in error
        assert words in error


def test_prompts_that_cannot_be_gone_on_from(
    run: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = refused("generate", run, "--prompt", "the\ncÿt")
    assert "--prompt: the tokenizer has no token for 'ÿ' (U+00FF) at character 6" in error
    assert "--prompt is empty" in refused("generate", run, "--prompt", "")
    for data, words in ((b"", "--prompt is empty"), (b"ab\xff", "byte 0xFF at offset 2")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="ascii"))
        assert words in refused("generate", run, "--prompt", "-")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--temperature", "-1"], "temperature is -1"),
        (["--temperature", "nan"], "temperature is nan"),
        (["--top-k", "0"], "top-k is 0"),
        (["--top-p", "0"], "top-p is 0"),
        (["--top-p", "1.5"], "top-p is 1.5"),
        (["--seed", "-1"], "seed is -1"),
        (["--max-tokens", "-5"], "-5"),
        (["--num-samples", "0"], "0"),
    ],
)
def test_sampling_options_out_of_range(
    options: list[str], words: str, run: Path, refused: Refused
) -> None:
    assert words in refused("generate", run, *options)


def test_texts_that_cannot_be_measured(run: Path, refused: Refused) -> None:
    Path("foreign.txt").write_text("the ÿ", encoding="utf-8")
    Path("short.txt").write_text("a", encoding="utf-8")
    assert "foreign.txt: the tokenizer has no token" in refused(
        "eval", run, "--text", "foreign.txt"
    )
    assert "short.txt: 1 token(s)" in refused("eval", run, "--text", "short.txt")
    assert "none.txt: no such file" in refused("eval", run, "--text", "none.txt")
    Path("few.txt").write_text("the cat", encoding="utf-8")
    error = refused("eval", run, "--text", "few.txt", "--nanogpt-estimator")
    assert "too few for a context of 8" in error


def test_a_text_that_changed_is_not_measured(
    config: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(config), "--out", "new", "--quiet"]) == 0
    with Path("text.txt").open("a", encoding="utf-8") as file:
        file.write(" house")
    assert "text.txt: not the text that new was trained on" in refused("eval", "new")


def test_mistakes_reach_a_real_process_as_one_line(config: Path, run: Path) -> None:
    Path("bad.txt").write_bytes(b"one\n\xff")
    for arguments, words in (
        (["train", "bad.txt"], "bad.txt, line 2"),
        (["train", config, "--out", run], "already holds a run"),
        (["generate", run, "--prompt", "ÿ"], "U+00FF"),
    ):
        process = runs.process(*map(str, arguments))
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out, err.count("\n")) == (2, "", 1), err
        assert words in err


class FullAfter:
    """A disk that is full from the n-th file on that is written as a whole."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.written: list[str] = []
        self._real = files.replacing

    @contextmanager
    def replacing(self, path: Path) -> Iterator[BinaryIO]:
        self.written.append(path.name)
        full = len(self.written) > self.n
        with self._real(path) as file:
            yield file
            if full:
                file.flush()  # some of it is there already
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_fills_up_at_any_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = runs.settings(runs.write_text(tmp_path), runs.GPT2, steps=4, eval_interval=2)
    config = runs.write_config(tmp_path, values)
    monkeypatch.setenv("BPTOOL_CACHE_DIR", str(tmp_path / "cache of the unbroken run"))
    runs.train(runs.config_of(values), tmp_path / "unbroken")
    monkeypatch.setenv("BPTOOL_CACHE_DIR", str(tmp_path / "cache"))
    want = runs.left_behind(tmp_path / "unbroken")
    n_files = 0
    while True:
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        out, disk = tmp_path / f"run-{n_files}", FullAfter(n_files)
        with monkeypatch.context() as patch:
            patch.setattr(files, "replacing", disk.replacing)
            code = main(["train", str(config), "--out", str(out), "--quiet"])
        error = capsys.readouterr().err
        assert not list(tmp_path.rglob(f"{files.TEMPORARY_PREFIX}*"))
        if code == 0:
            break
        assert (code, error.count("\n"), error[:7]) == (2, 1, "error: "), error
        assert "No space left on device" in error
        assert "free some space" in error
        if out.exists():
            # what is there is a run, and with space again it goes on as if nothing had been
            assert RunFolder(out).holds_run()
            runs.resume(out)
            assert runs.left_behind(out) == want
        n_files += 1
    # tokens, configuration, tokenizer, manifest, metrics, three checkpoints with their indices;
    # what fails in the last of them ends the run, since the ones before are tried again
    assert n_files >= 12
    assert runs.left_behind(out) == want


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a tmpfs")
def test_a_disk_that_is_really_full(tmp_path: Path, config: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("may not mount a file system")
    try:
        process = runs.process("train", str(config), "--out", str(disk / "run"))
        _, err = process.communicate(timeout=120)
        assert (process.returncode, err.count("\n")) == (2, 1), err
        assert re.search(r"a checkpoint takes \d+ kB and [\d.]+ kB are free; free some space", err)
        assert not (disk / "run").exists()
        assert not list(disk.rglob(f"{files.TEMPORARY_PREFIX}*"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("command", ["feedback", "evaluate-preference"])
def test_turns_need_a_template_to_be_answered(
    command: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = [{"role": "user", "content": text} for text in ("one", "two")]
    turns.insert(1, {"role": "assistant", "content": "it"})
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": turns}) + "\n")
    more = ["--out", "judged.jsonl"] if command == "feedback" else [str(run), "--reward", str(run)]
    assert main([command, str(run), *more, "--prompts", str(prompts)]) == 2
    error = capsys.readouterr().err
    assert "prompts.jsonl:1: has 3 turns" in error
    assert "--template roles" in error
    assert not (tmp_path / "judged.jsonl").exists()
