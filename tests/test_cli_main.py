"""The frame of the command line: help, version, errors, exit codes, start-up."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import training_runs as runs
import typer

from bptool import __version__
from bptool.cli import commands, failures
from bptool.cli.main import main
from bptool.errors import ConfigError, DivergedError

HEAVY = {
    "numba", "llvmlite", "numpy", "scipy", "matplotlib", "pydantic", "tokenizers", "yaml", "pooch",
    "safetensors",
}  # fmt: skip


def run(*arguments: str, script: str | None = None) -> subprocess.CompletedProcess[str]:
    start = ["-c", script] if script else ["-m", "bptool"]
    return subprocess.run(
        [sys.executable, *start, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
        check=False,
    )


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., None]], None]:
    """Put a function in the table as the command ``probe``."""

    def install(function: Callable[..., None]) -> None:
        module = SimpleNamespace(probe=function)
        monkeypatch.setitem(sys.modules, "bptool.cli.probe", module)
        entry = commands.Entry("bptool.cli.probe:probe", "A probe.")
        monkeypatch.setitem(commands.COMMANDS, "probe", entry)

    return install


def raising(error: BaseException) -> Callable[[], None]:
    def probe() -> None:
        raise error

    return probe


def test_help_lists_every_command_and_loads_nothing_heavy() -> None:
    script = (
        "import sys; from bptool.cli.main import main; code = main(['--help']);"
        "print('LOADED', *sorted({name.partition('.')[0] for name in sys.modules})); sys.exit(code)"
    )
    result = run(script=script)
    assert result.returncode == 0, result.stderr
    text, _, loaded = result.stdout.rpartition("LOADED")
    for name in commands.COMMANDS:
        assert name in text
    assert not HEAVY & set(loaded.split())


def test_no_arguments_print_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "Usage: bptool" in capsys.readouterr().out


def test_runs_as_a_module_and_tells_its_version() -> None:
    result = run("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"bptool {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], ["'trian'", "did you mean 'train'?"]),
        (["--nope"], ["--nope", "'bptool --help'"]),
        (["probe"], ["text", "'bptool probe --help'"]),
        (["probe", "a", "--size", "x"], ["--size", "'x'", "'bptool probe --help'"]),
        (["probe", "a", "b"], ["b", "'bptool probe --help'"]),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str],
    words: list[str],
    command: Callable[[Callable[..., None]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def probe(text: str, size: int = 3) -> None: ...

    command(probe)
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    for word in words:
        assert word in shown.err.lower()


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (ConfigError("a.yaml:3: n_layers: unknown"), "error: a.yaml:3: n_layers: unknown", 2),
        (ConfigError("first\nsecond"), "error: first\nsecond", 2),
        (DivergedError("loss is not finite"), "error: loss is not finite", 1),
        (OSError(errno.ENOSPC, "x", "runs/a"), "error: runs/a: the disk is full; ", 2),
        (PermissionError(errno.EACCES, "x", "runs/a"), "error: runs/a: permission denied; ", 2),
        (MemoryError(), "error: not enough memory; ", 2),
        (KeyboardInterrupt(), "interrupted", 130),
        (typer.Abort(), "interrupted", 130),
        (
            ValueError("a\nb [c]"),
            "unexpected error: ValueError: a b [c]; run again with --debug for the traceback",
            1,
        ),
    ],
)
def test_an_exception_becomes_a_line_and_an_exit_code(
    error: BaseException,
    line: str,
    code: int,
    command: Callable[[Callable[..., None]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    command(raising(error))
    assert main(["probe"]) == code
    shown = capsys.readouterr().err
    assert shown.startswith(line)
    assert shown.count("\n") == line.count("\n") + 1


@pytest.mark.parametrize("arguments", [["probe", "--debug"], ["--debug", "probe"]])
def test_debug_shows_the_traceback(
    arguments: list[str],
    command: Callable[[Callable[..., None]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    command(raising(ValueError("inside")))
    assert main(arguments) == 1
    assert "Traceback" in capsys.readouterr().err


def test_debug_after_two_dashes_is_an_argument(
    command: Callable[[Callable[..., None]], None],
) -> None:
    seen: list[str] = []

    def probe(text: str) -> None:
        seen.append(text)

    command(probe)
    assert main(["probe", "--", "--debug"]) == 0
    assert seen == ["--debug"]


def test_a_group_of_commands_loads_without_options_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    group = typer.Typer(no_args_is_help=True, help="A group.")
    group.command("one")(lambda: None)
    group.command("two")(raising(ConfigError("from two")))
    monkeypatch.setitem(sys.modules, "bptool.cli.probe", SimpleNamespace(app=group))
    entry = commands.Entry("bptool.cli.probe:app", "A group.")
    monkeypatch.setitem(commands.COMMANDS, "probe", entry)
    assert main(["probe", "one"]) == 0
    assert main(["probe", "two"]) == 2
    assert capsys.readouterr().err == "error: from two\n"
    assert main(["probe", "-h"]) == 0
    text = capsys.readouterr().out
    assert "two" in text
    assert "completion" not in text
    assert main(["probe"]) == 2
    shown = capsys.readouterr()
    assert "Usage: bptool probe" in shown.out + shown.err
    assert main(["probe", "tow"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_exit_code_of_a_command_is_kept(command: Callable[[Callable[..., None]], None]) -> None:
    command(raising(typer.Exit(3)))
    assert main(["probe"]) == 3


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGPIPE and no head")
def test_a_reader_that_goes_away_is_no_error() -> None:
    script = (
        "import sys, types; from bptool.cli import commands, main\n"
        "def probe():\n    for _ in range(100000): print('line')\n"
        "sys.modules['bptool.cli.probe'] = types.SimpleNamespace(probe=probe)\n"
        "commands.COMMANDS['probe'] = commands.Entry('bptool.cli.probe:probe', '')\n"
        "sys.exit(main.main(['probe']))"
    )
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    os.read(read, 10)
    os.close(read)
    _, errors = process.communicate()
    assert (process.returncode, errors) == (failures.BROKEN_PIPE, "")


@pytest.mark.parametrize("name", list(commands.COMMANDS))
def test_every_command_loads_and_says_what_it_does(name: str) -> None:
    command = commands.load(name)
    assert command.help
    assert command.name == name
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"'{name}': {parameter.name} has no help"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals between processes")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_any_command_is_its_exit_code(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    text = runs.write_text(tmp_path)
    sweep = runs.process(
        *("lr-find", str(text), "--steps", "10000", "--out", str(tmp_path / "out")), cwd=tmp_path
    )
    time.sleep(4)  # while it builds or sweeps
    sweep.send_signal(number)
    _, err = sweep.communicate(timeout=60)
    assert sweep.returncode == code, err


def test_the_list_of_commands_says_what_each_command_says_first() -> None:
    for name, entry in commands.COMMANDS.items():
        first = (commands.load(name).help or "").strip().splitlines()[0]
        assert first == entry.help, name
