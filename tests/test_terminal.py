"""Nothing from a file, a name or a model is obeyed by the terminal: commands in a real one."""

from __future__ import annotations

import io
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import training_runs as runs
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from bptool.cli import terminal
from bptool.cli.console import Console

OLD = Path(__file__).parent / "old_formats"
EVIL = "\x1b]0;owned\x07\x9b31m\u202eevil\u2066\x7f\x1bc[red]"
SHOWN = r"\x1b]0;owned\x07\x9b31m\u202eevil\u2066\x7f\x1bc[red]"
OURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""What rich and click send: colours, and moves of the cursor."""
HOSTILE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")

needs_pty = pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal of POSIX")


def in_terminal(folder: Path, *arguments: str, typed: bytes = b"", seconds: float = 240) -> str:
    """What a command writes to a terminal of its own, without what rich and click send."""
    import pty

    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    environment |= {"BPTOOL_CACHE_DIR": str(folder / "cache"), "PYTHONIOENCODING": "utf-8"}
    environment.pop("CI", None)
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "bptool", *arguments],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        cwd=folder,
        env=environment,
        start_new_session=True,
    )
    os.close(follower)
    os.write(leader, typed)
    data, end = b"", time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            if select.select([leader], [], [], 0.1)[0]:
                try:
                    part = os.read(leader, 65536)
                except OSError:  # Linux's way to say that nobody writes any more
                    break
                if not part:
                    break
                data += part
    finally:
        if process.poll() is None and time.monotonic() >= end:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(leader)
    return OURS.sub("", data.decode("utf-8"))


def check_harmless(output: str) -> None:
    """Nothing is left that a terminal would obey, but for line ends and tabs."""
    found = HOSTILE.search(output)
    assert found is None, output[max(0, found.start() - 80) : found.end() + 80].encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a run whose model writes control characters, and its text."""
    shutil.copytree(OLD / "run-2", tmp_path / "run")
    path = tmp_path / "run" / "tokenizer.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    value["characters"] = "\n \x1b\x9b\u202e\u2066\x7f\x08\x07];0hi,.abce"
    assert len(value["characters"]) == 20
    path.write_text(json.dumps(value), encoding="utf-8")
    runs.seal(tmp_path / "run")
    runs.write_text(tmp_path)
    return tmp_path


@needs_pty
@pytest.mark.parametrize(
    "arguments",
    [
        ("train", f"no{EVIL}.txt"),
        ("train", "text.txt", "--set", f"training.{EVIL}=1"),
        ("generate", f"no{EVIL}"),
        ("config", "show", f"no{EVIL}.yaml"),
        ("data", "inspect", f"no{EVIL}.txt"),
        ("data", "get", f"no{EVIL}"),
        ("generate", "run", "--plugin", f"no{EVIL}.py"),
        (f"no{EVIL}",),
        ("train", f"--no{EVIL}"),
        ("--debug", "train", f"no{EVIL}.txt"),
    ],
    ids=lambda arguments: " ".join(arguments)[:24].encode("ascii", "replace").decode(),
)
def test_what_is_named_is_shown(folder: Path, arguments: tuple[str, ...]) -> None:
    output = in_terminal(folder, *arguments)
    check_harmless(output)
    assert r"\x1b]0;owned" in output.replace("\r\n", "").replace(r"\\x1b", r"\x1b"), output


@needs_pty
def test_what_files_of_a_run_say_is_shown(folder: Path) -> None:
    shutil.copytree(folder / "run", folder / "other")
    runs.seal(folder / "other", **{"engine": EVIL, "versions": {"numpy": EVIL}, EVIL: EVIL})
    held = {"process": EVIL, "host": EVIL, "boot": EVIL, "since": EVIL}
    (folder / "run" / "run.lock").write_text(json.dumps(held), encoding="utf-8")
    plugin = f"raise RuntimeError({EVIL!r} + {EVIL!r})\n"
    (folder / "plugin.py").write_text(plugin, encoding="utf-8")
    (folder / "evil.yaml").write_text(f"training: {{{json.dumps(EVIL)}: 1}}\n", encoding="utf-8")
    for arguments in (
        ("diff", "run", "other"),
        ("diff", "run", "other", "--json"),
        ("train", "run", "--resume"),
        ("generate", "run", "--plugin", "plugin.py"),
        ("train", "evil.yaml"),
        ("config", "show", "evil.yaml"),
    ):
        output = in_terminal(folder, *arguments)
        check_harmless(output)
        assert "owned" in output, (arguments, output)
        assert len(output) < 10_000


@needs_pty
def test_what_a_model_writes_is_shown_and_piped_as_it_is(folder: Path) -> None:
    words = ("generate", "run", "--max-tokens", "300", "--temperature", "9", "--seed", "1")
    shown = in_terminal(folder, *words)
    check_harmless(shown)
    assert r"\x1b" in shown
    assert r"\u202e" in shown
    for more in (("--num-samples", "2"), ("--json",)):
        output = in_terminal(folder, *words, *more)
        check_harmless(output)
        assert r"\u202e" in output
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "bptool", *words]
    piped = subprocess.run(command, capture_output=True, cwd=folder, env=environment, check=True)
    assert b"\x1b" in piped.stdout
    text = piped.stdout.decode("utf-8")
    assert terminal.visible(text).split() == shown.replace("\r\n", "\n").split()
    asked = subprocess.run([*command, "--json"], capture_output=True, cwd=folder, check=True)
    value = json.loads(asked.stdout)
    assert value["prompt"] + value["samples"][0]["text"] == text.removesuffix("\n")


@needs_pty
def test_feedback_is_harmless(folder: Path) -> None:
    (folder / "prompts.txt").write_text("hi\na,b\n", encoding="utf-8")
    words = ("--max-tokens", "200", "--temperature", "9")
    asked = ("feedback", "run", "--prompts", "prompts.txt", "--out", "out.jsonl", *words)
    judged = in_terminal(folder, *asked, typed=b"1q")
    check_harmless(judged)
    assert r"\x1b" in judged or r"\x9b" in judged, judged


@needs_pty
def test_training_on_such_a_text_and_a_chat_are_harmless(folder: Path) -> None:
    text = folder / "evil.txt"
    text.write_text(f"a {EVIL} b\n" * 200, encoding="utf-8")
    check_harmless(in_terminal(folder, "data", "inspect", "evil.txt"))
    values = runs.settings(text, runs.MLP, steps=4, eval_interval=2, checkpoint_interval=2)
    values["sample"] = {"prompt": EVIL, "max_tokens": 40}
    values["model"]["context"] = 64
    values["data"]["tokenizer"] = {"name": "byte", "special_tokens": ["<|endoftext|>"]}
    runs.write_config(folder, values)
    for more in ((), ("--quiet",), ("--json",)):
        output = in_terminal(folder, "train", "config.yaml", "--out", f"run{len(more)}", *more)
        check_harmless(output)
        if more != ("--quiet",):
            assert "owned" in output, output
        if more:
            shutil.rmtree(folder / f"run{len(more)}")
    words = ("--template", "plain", "--max-tokens", "40", "--temperature", "9")
    chat = in_terminal(folder, "chat", "run0", *words, typed=b"hi\n" * 5 + b"/quit\n")
    check_harmless(chat)
    assert r"\x" in chat, chat


def test_markup_and_control_characters_are_text_to_the_console() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=200, color_system="truecolor")
    table = Table(title=EVIL, caption=EVIL)
    table.add_column(EVIL)
    table.add_row(EVIL)
    table.add_row(Text(EVIL))
    for one in (EVIL, Text(EVIL), table, Panel(Text(EVIL), title=Text(EVIL)), f":smile: {EVIL}"):
        console.print(one)
    output = OURS.sub("", file.getvalue())
    check_harmless(output)
    shown = SHOWN.partition(r"\x07")[2]  # of a text that is built of parts rich drops the bell
    assert output.count(shown) == 10
    assert ":smile:" in output


def test_json_keeps_the_value(capsys: pytest.CaptureFixture[str]) -> None:
    value = {EVIL: [EVIL, "é\n\ud800", 1.5], "n": [float("nan"), float("-inf")]}
    terminal.json(value)
    output = capsys.readouterr().out
    check_harmless(output)
    assert "é" in output
    assert json.loads(output) == {EVIL: [EVIL, "é\n\ud800", 1.5], "n": [None, None]}


def test_visible_changes_nothing_else() -> None:
    text = "".join(chr(c) for c in range(0x20, 0x2FF) if not 0x7F <= c < 0xA0) + "\n\t日本🙂"
    assert terminal.visible(text) == text
    assert terminal.visible(terminal.visible(EVIL)) == terminal.visible(EVIL) == SHOWN
    assert terminal.visible(os.fsdecode(b"\xff\x1b")) == (r"\xff\x1b" if os.name != "nt" else "")


def test_a_long_line_of_a_message_is_cut() -> None:
    text = "a" * 10**6 + "\nb\n" + "c" * 2500 + "end"
    lines = terminal.shortened(text).split("\n")
    assert [len(line) < 2100 for line in lines] == [True] * 3
    assert lines[1] == "b"
    assert lines[2].endswith("end")
