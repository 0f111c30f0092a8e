"""``bptool data prepare`` as processes of its own: interrupted, killed, and gone on with."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from pathlib import Path

import pytest
import training_runs as runs

from bptool.cli.main import main
from bptool.cli.preparing import SECONDS_A_LINE, Asked, Stages

LINE = "the fox saw an owl, and the owl saw the fox; both went home.\n"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BPTOOL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(cache: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (cache / "tokens").glob("*") if "survey" not in p.name}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals between processes")
@pytest.mark.parametrize(
    ("number", "tokenizer"),
    [
        (signal.SIGINT, "byte"),
        (signal.SIGTERM, "byte"),
        (signal.SIGKILL, "byte"),
        (signal.SIGINT, "{name: bpe, vocab_size: 300, memory: 16}"),
    ],
    ids=["SIGINT", "SIGTERM", "SIGKILL", "SIGINT-threads"],
)
def test_stopped_at_any_moment_it_goes_on_to_the_same_bytes(
    number: signal.Signals, tokenizer: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open("a.txt", "w", encoding="utf-8", newline="\n") as file:
        for i in range(1_200_000):
            file.write(f"{i} {LINE}")
    arguments = ["data", "prepare", "a.txt", "--set", f"data.tokenizer={tokenizer}"]
    process = runs.process(*arguments)
    part = None
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("training text"):
            break
    while process.poll() is None:  # until something is safe on the disk beside the tokenizer
        journals = list((place / "cache" / "tokens").glob("*.journal"))
        parts = list((place / "cache" / "tokens").glob("*.part"))
        if journals and parts and parts[0].stat().st_size > 8_000_000:
            part = parts[0]
            process.send_signal(number)
            break
    _, errors = process.communicate(timeout=120)
    assert part is not None
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), errors
    assert not list((place / "cache" / "tokens").glob("*.tokens"))
    if number != signal.SIGKILL:
        same = Asked(["a.txt"], [], [f"data.tokenizer={tokenizer}"], None, [])
        assert f"go on with: {same.command('data prepare')}" in errors
        assert len(errors.strip().splitlines()) == 1
    again = runs.process(*arguments)
    out, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    if number != signal.SIGKILL:
        assert "training text: going on after" in errors
    assert "train with: bptool train a.txt --set" in out
    monkeypatch.setenv("BPTOOL_CACHE_DIR", str(place / "other"))
    assert main([*arguments, "--quiet"]) == 0
    assert files(place / "cache") == files(place / "other")


MERGING = """
import sys, time
from bptool.data.tokenizers.byte import ByteTokenizer
from bptool.registry import tokenizers

@tokenizers.register("merging")
class Merging(ByteTokenizer):
    @classmethod
    def train(cls, texts, config):
        n = sum(map(len, texts))
        print(f"merging {n}", file=sys.stderr, flush=True)
        while True:
            time.sleep(3600)  # a library that hears of no signal
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals between processes")
@pytest.mark.parametrize("command", ["prepare", "train"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_learning_a_vocabulary_is_stopped_while_it_merges(
    command: str, number: signal.Signals, place: Path
) -> None:
    Path("merging.py").write_text(MERGING, encoding="utf-8")
    Path("a.txt").write_text(LINE * 100, encoding="utf-8")
    words = ["data", "prepare"] if command == "prepare" else ["train"]
    process = runs.process(
        *words, "a.txt", "--plugin", "merging.py", "--set", "data.tokenizer=merging"
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("merging"):
            break
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number, errors
    assert "Traceback" not in errors
    assert not Path("runs").exists()


def test_train_starts_from_what_was_prepared(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.make_quick(monkeypatch, place / "cache")
    text = runs.write_text(place)
    config = runs.write_config(place, runs.settings(text, runs.GPT2, steps=2))
    assert main(["data", "prepare", str(config)]) == 0
    shown = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert shown["characters a token"] == "1.000"
    assert shown["tokens"].split()[0] == f"{len(text.read_text()):,}"
    made = files(place / "cache")
    assert [shown["file"]] == [str(place / "cache" / "tokens" / name) for name in made]
    assert shown["train with"] == f"bptool train {config}"
    assert main(["train", str(config), "--out", "run", "--quiet"]) == 0
    assert files(place / "cache") == made
    capsys.readouterr()
    assert main(["data", "prepare", str(config)]) == 0
    assert "(was there already)" in capsys.readouterr().out
    other = place / "other.txt"
    other.write_text(f"the tree. {text.read_text()}", encoding="utf-8")
    for was_there in (False, True):  # --from sizes the run by the tokens
        assert main(["data", "prepare", str(other), "--from", "run"]) == 0
        assert ("(was there already)" in capsys.readouterr().out) == was_there


def test_a_text_form_reads_as_its_settings_say(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("latin.txt").write_bytes(("é" + LINE).encode("latin-1") * 40)
    assert main(["data", "prepare", "latin.txt"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "latin.txt, line 1: byte 0xE9" in err
    assert len(err.strip().splitlines()) == 1
    assert main(["data", "prepare", "latin.txt", "--set", "data.encoding=latin-1"]) == 0
    assert "--set data.encoding=latin-1" in capsys.readouterr().out


def test_lines_tell_rate_and_time_left(place: Path) -> None:
    now = [0.0]
    with open("log", "w+", encoding="utf-8") as file:
        stages = Stages(file, clock=lambda: now[0])
        stages("training text", 0, 4_000_000)
        now[0] += SECONDS_A_LINE / 2
        stages("training text", 500_000, 4_000_000)
        now[0] += SECONDS_A_LINE / 2
        stages("training text", 1_000_000, 4_000_000)
        stages("training text", 4_000_000, 4_000_000)
        stages("validation text", 100_000, 1_000_000)
        file.seek(0)
        assert file.read().splitlines() == [
            "training text, 4 MB",
            "training text: 1 MB of 4 MB (25.0%), 100 kB/s, 30 s left",
            "validation text: going on after 100 kB of 1 MB (10.0%)",
        ]
    assert stages.reached == "after 100 kB of 1 MB (10.0%) of the validation text"


def test_a_pass_that_begins_anew_has_a_rate_of_its_own(place: Path) -> None:
    now = [0.0]
    with open("log", "w+", encoding="utf-8") as file:
        stages = Stages(file, clock=lambda: now[0])
        stages("tokenizer", 0, 4_000_000)
        now[0] += 1.9 * SECONDS_A_LINE
        stages("tokenizer", 4_000_000, 4_000_000)
        stages("tokenizer", 1_000_000, 4_000_000)
        now[0] += SECONDS_A_LINE
        stages("tokenizer", 2_000_000, 4_000_000)
        file.seek(0)
        assert file.read().splitlines() == [
            "learning the vocabulary, 4 MB",
            "learning the vocabulary: 1 MB of 4 MB (25.0%), 0 B/s, - left",
            "learning the vocabulary: 2 MB of 4 MB (50.0%), 100 kB/s, 20 s left",
        ]
    assert stages.reached == "before anything was tokenized"


def piped(text: str, *arguments: str) -> tuple[int, str, str]:
    """The exit code, output and errors of a process that is sent ``text``."""
    process = runs.process(*arguments, stdin=subprocess.PIPE)
    out, err = process.communicate(text, timeout=120)
    return process.returncode, out, err


def test_standard_input_is_kept_and_trained_on(place: Path) -> None:
    text = "".join(f"{i} {LINE}" for i in range(60))
    kept = place / "cache" / "texts" / f"{hashlib.sha256(text.encode()).hexdigest()}.txt"
    code, out, err = piped(text, "data", "prepare", "-")
    assert code == 0, err
    assert kept.read_text(encoding="utf-8") == text
    assert f"train with: bptool train {kept}" in out
    code, out, err = piped(text, "data", "inspect", "-")
    assert code == 0, err
    assert f"{len(text):,}" in out
    few = ["--set", "training.steps=2", "--set", "schedule.warmup_steps=0", "--quiet"]
    code, _, err = piped(text, "train", "-", *few)
    assert code == 0, err
    config = (place / "runs" / "stdin" / "config.yaml").read_text(encoding="utf-8")
    assert str(kept) in config
    code, _, err = piped("", "train", "runs/stdin", "--resume", "--set", "training.steps=3")
    assert code == 0, err
    assert [p.name for p in (place / "cache" / "texts").iterdir()] == [kept.name]


@pytest.mark.parametrize("command", [["train"], ["data", "prepare"], ["data", "inspect"]])
def test_no_text_on_standard_input_is_one_line(command: list[str], place: Path) -> None:
    code, out, err = piped("", *command, "-")
    assert (code, out) == (2, "")
    assert err == "error: standard input is empty; send a text to it, or name a file\n"
    assert not list((place / "cache" / "texts").iterdir())


def test_a_terminal_and_a_second_dash_are_refused(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pty = pytest.importorskip("pty", reason="Windows has no such terminals")
    outer, inner = pty.openpty()
    process = runs.process("data", "prepare", "-", stdin=inner)
    _, err = process.communicate(timeout=120)
    os.close(outer)
    os.close(inner)
    assert process.returncode == 2
    assert err.startswith("error: standard input is a terminal; send a text to it")
    assert main(["data", "prepare", "-", "-"]) == 2
    assert "name - once" in capsys.readouterr().err
