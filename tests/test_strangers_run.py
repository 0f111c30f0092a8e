"""A run that sets traps: nothing in it is executed by any command, unless that command's line names
it; and what needs none of its programs works."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import training_runs as runs
from fine_tuning_runs import settled

from bptool import consent
from bptool.cli.commands import COMMANDS, load
from bptool.cli.main import main
from bptool.cli.programs import resume_command
from bptool.training.run_folder import RunFolder
from bptool.training.run_seal import read_manifest
from bptool.training.seal import read_sealed, write_sealed

pytestmark = pytest.mark.usefixtures("registries_as_before")

MARKER = "executed"
TRAP = """\
from pathlib import Path
with open({marker!r}, "a") as file:
    file.write(__file__ + "\\n")
def reward(prompt, answer):
    return float(len(answer))
"""
PLUGIN = """
from bptool.optim.schedules.base import Schedule
from bptool.registry import schedules


@schedules.register("stranger")
class Mine(Schedule):
    Config = schedules.get("cosine").Config

    def shape(self, done, n_steps):
        return 1.0
"""
SHADOWS = ("json", "socket", "pickle", "numpy", "typer", "sitecustomize", "conftest", "bptool")
"""Modules that a program which looks into its working folder first would take from there."""


class Places(NamedTuple):
    """Where the runs and files of the tests are.

    Attributes:
        base: what ``write_finetuning`` makes. rewarded: a run whose rewards are a trap. adapted:
            one with adapters, of a plug-in that is a trap. marker: what a trap writes.
    """

    base: Path
    rewarded: Path
    adapted: Path
    marker: Path

    @property
    def prompts(self) -> Path:
        return self.base / "prompts.txt"

    @property
    def rules(self) -> Path:
        return self.base / "rules.py"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def edit(run: Path, changes: dict[str, str], programs: list[dict[str, str]]) -> None:
    """What someone does who knows the format: config.yaml changed, the manifest sealed again."""
    folder = RunFolder(run)
    text = folder.config.read_text(encoding="utf-8")
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new, 1)
    folder.config.write_text(text, encoding="utf-8")
    manifest = {**read_sealed(folder.manifest, "manifest"), "programs": programs}
    manifest["files"]["config.yaml"] = {"sha256": sha256(folder.config)}
    write_sealed(folder.manifest, {k: v for k, v in manifest.items() if k != "format_version"})


def set_trap(path: Path, marker: Path, more: str = "") -> None:
    path.write_text(TRAP.format(marker=str(marker)) + more, encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs without traps."""
    folder = tmp_path_factory.mktemp("stranger")
    base = runs.write_finetuning(folder)
    with pytest.MonkeyPatch.context() as patch:
        runs.make_quick(patch, folder / "cache")
        for method, stop in (("grpo", 2), ("lora", 2)):
            asked = settled(base, method, folder / method, ["chat.template=roles"])
            runs.train(asked, folder / method, stop_at=stop)
    return folder


@pytest.fixture
def places(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    runs.make_quick(monkeypatch, tmp_path / "cache")
    marker = tmp_path / MARKER
    for name in ("grpo", "lora"):
        shutil.copytree(made / name, tmp_path / name)
    found = Places(made, tmp_path / "grpo", tmp_path / "lora", marker)
    set_trap(found.rewarded / "reward.py", marker)
    set_trap(found.adapted / "stranger.py", marker, PLUGIN)
    for run in (found.rewarded, found.adapted):
        for name in SHADOWS:
            set_trap(run / f"{name}.py", marker)
    reward = found.rewarded / "reward.py"
    edit(
        found.rewarded,
        {f"reward: {made / 'rules.py'}": "reward: reward.py"},
        [{"option": "--reward", "name": str(reward), "sha256": sha256(reward)}],
    )
    plugin = found.adapted / "stranger.py"
    edit(
        found.adapted,
        {"schedule:\n  name: cosine": "schedule:\n  name: stranger"},
        [{"option": "--plugin", "name": str(plugin), "sha256": sha256(plugin)}],
    )
    monkeypatch.chdir(found.rewarded)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ann?\n"), encoding="utf-8"))
    return found


def leaves(name: str, command: Any) -> Iterator[str]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name
    for key, one in (inner or {}).items():
        yield from leaves(f"{name} {key}", one)


ALL_COMMANDS = [leaf for name in COMMANDS for leaf in leaves(name, load(name))]
REFUSED = "runs only when you name it"
NEEDS = "which run only when you name them on this command line; look at them, then add --"
Case = tuple[Callable[[Places], list[Any]], int, str]
"""Arguments behind the command's name, the exit code, and words of the error."""
CASES: dict[str, list[Case]] = {
    "train": [
        (lambda p: [p.rewarded, "--resume"], 2, NEEDS),
        (lambda p: [p.rewarded / "config.yaml", "--out", "out"], 2, REFUSED),
        (lambda p: [p.rewarded / "config.yaml", "--resume", "--out", p.rewarded], 2, NEEDS),
        (lambda p: [p.rewarded, "--resume", "--set", "rollouts.reward=x.py"], 2, NEEDS),
        (lambda p: [p.adapted, "--resume"], 2, NEEDS),
        (lambda p: [p.adapted / "config.yaml", "--out", "out"], 2, "unknown schedule 'stranger'"),
        (lambda p: [p.base / "text.txt", "--from", p.rewarded, "--plan"], 0, ""),
        (
            lambda p: [
                *(p.base / "text.txt", "--from", p.rewarded, "--out", "out", "--quiet"),
                *("--set", "training.steps=1"),
            ],
            0,
            "",
        ),
    ],
    "generate": [
        (lambda p: [p.rewarded, "--max-tokens", 3], 0, ""),
        (lambda p: [p.adapted, "--max-tokens", 3], 0, ""),
    ],
    "chat": [
        (lambda p: [p.rewarded, "--max-tokens", 3], 0, ""),
        (lambda p: [p.adapted, "--max-tokens", 3], 0, ""),
    ],
    "eval": [
        (lambda p: [p.rewarded, "--text", p.base / "text.txt"], 0, ""),
        (lambda p: [p.adapted], 0, ""),
    ],
    "finetune sft": [
        (
            lambda p: [
                *(p.rewarded, "--data", p.base / "records.jsonl", "--out", "out", "--quiet"),
                *("--set", "training.steps=1"),
            ],
            0,
            "",
        )
    ],
    "finetune reward": [
        (
            lambda p: [
                *(p.rewarded, "--data", p.base / "pairs.jsonl", "--out", "out", "--quiet"),
                *("--set", "training.steps=1"),
            ],
            0,
            "",
        )
    ],
    "finetune dpo": [
        (
            lambda p: [
                *(p.rewarded, "--data", p.base / "pairs.jsonl", "--out", "out", "--quiet"),
                *("--set", "training.steps=1"),
            ],
            0,
            "",
        )
    ],
    "finetune ppo": [
        (
            lambda p: [
                *(p.rewarded, "--prompts", p.prompts, "--reward", p.rules, "--out", "out"),
                *("--steps", 1, "--prompts-per-step", 2, "--max-tokens", 3, "--quiet"),
            ],
            0,
            "",
        ),
        (
            lambda p: [
                *(p.rewarded, "--prompts", p.prompts, "--reward", p.rules, "--out", "out"),
                *("--set", "rollouts.reward=reward.py"),
            ],
            2,
            REFUSED,
        ),
        (
            lambda p: [p.base / "base", "--prompts", p.prompts, "--reward", p.rewarded],
            2,
            "is no reward model",
        ),
    ],
    "finetune grpo": [
        (
            lambda p: [
                *(p.rewarded, "--prompts", p.prompts, "--reward", p.rules, "--out", "out"),
                *("--steps", 1, "--prompts-per-step", 2, "--max-tokens", 3, "--quiet"),
            ],
            0,
            "",
        )
    ],
    "feedback": [
        (
            lambda p: [
                *(p.rewarded, "--prompts", p.prompts, "--out", "judged.jsonl", "--json"),
                *("--judge", p.rules, "--limit", 1, "--max-tokens", 3),
            ],
            0,
            "",
        )
    ],
    "merge": [
        (lambda p: [p.adapted, "--out", "out"], 0, ""),
        (lambda p: [p.rewarded, "--out", "out"], 2, "no adapters"),
    ],
    "evaluate-preference": [
        (
            lambda p: [
                *(p.rewarded, p.adapted, "--prompts", p.prompts, "--judge", p.rules),
                *("--limit", 1, "--max-tokens", 3),
            ],
            0,
            "",
        ),
        (
            lambda p: [p.rewarded, p.adapted, "--prompts", p.prompts, "--reward", p.rewarded],
            2,
            "is no reward model",
        ),
    ],
    "gradcheck": [
        (lambda p: [p.rewarded / "config.yaml", "--objective", "grpo", "--json"], 0, ""),
        (lambda p: [p.adapted / "config.yaml"], 2, "unknown schedule 'stranger'"),
    ],
    "lr-find": [(lambda p: [p.rewarded / "config.yaml", "--out", "out"], 2, "works on a text")],
    "compare-optimizers": [
        (
            lambda p: [
                *(p.rewarded / "config.yaml", "--out", "out"),
                *("--optimizers", "sgd,adamw", "--set", "training.eval_tokens=8"),
            ],
            2,
            "error: ",
        )
    ],
    "profile": [(lambda p: [p.rewarded / "config.yaml"], 2, "works on a text")],
    "verify-resume": [(lambda p: [p.rewarded / "config.yaml", "--steps", 2], 2, REFUSED)],
    "diff": [(lambda p: [p.rewarded, p.adapted, "--json"], 1, "")],
    "config show": [
        (lambda p: [p.rewarded / "config.yaml"], 0, ""),
        (lambda p: [p.adapted / "config.yaml"], 2, "unknown schedule 'stranger'"),
    ],
    "config schema": [(lambda p: [], 0, "")],
    "data get": [(lambda p: ["reward.py"], 2, "reward.py")],
    "data list": [(lambda p: [], 0, "")],
    "data prepare": [(lambda p: [p.rewarded / "config.yaml"], 2, "error: ")],
    "data inspect": [(lambda p: [p.rewarded / "config.yaml"], 2, "error: ")],
}


def test_every_command_has_a_case() -> None:
    assert set(CASES) == set(ALL_COMMANDS)


@pytest.mark.parametrize(
    ("command", "case"),
    [(command, case) for command, cases in CASES.items() for case in cases],
    ids=[f"{command} {n}" for command, cases in CASES.items() for n in range(len(cases))],
)
def test_no_command_runs_what_its_line_does_not_name(
    command: str, case: Case, places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, exit_code, words = case
    before = [runs.snapshot(run) for run in (places.rewarded, places.adapted)]
    found = main([*command.split(), *map(str, arguments(places))])
    error = capsys.readouterr().err
    assert not places.marker.exists(), places.marker.read_text(encoding="utf-8")
    assert found == exit_code, error
    assert words in error
    if exit_code == 2:
        assert len(error.splitlines()) == 1, error
        assert [runs.snapshot(run) for run in (places.rewarded, places.adapted)] == before


def lines_of(places: Places) -> list[str]:
    return places.marker.read_text(encoding="utf-8").splitlines() if places.marker.exists() else []


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    capsys.readouterr()
    return main([str(argument) for argument in arguments]), capsys.readouterr().err


def test_what_is_named_runs_and_nothing_else(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    reward, plugin = places.rewarded / "reward.py", places.adapted / "stranger.py"
    exit_code, error = said(capsys, "train", places.rewarded, "--resume", "--quiet")
    assert (exit_code, lines_of(places)) == (2, [])
    assert f"add --reward {reward}" in error
    resume = ["train", places.rewarded, "--resume", "--quiet", "--reward", "reward.py"]
    exit_code, error = said(capsys, *resume)
    assert (exit_code, set(lines_of(places))) == (0, {str(reward)}), error
    resume = ["train", places.adapted, "--resume", "--quiet", "--plugin", "../lora/stranger.py"]
    exit_code, error = said(capsys, *resume)
    assert (exit_code, set(lines_of(places))) == (0, {str(reward), str(plugin)}), error


@pytest.mark.parametrize("option", ["--reward", "--plugin"])
def test_a_changed_program_stops_before_a_line_of_it_runs_until_it_is_accepted(
    option: str, places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    run = places.rewarded if option == "--reward" else places.adapted
    program = run / ("reward.py" if option == "--reward" else "stranger.py")
    before = sha256(program)
    # another name, so that no module of that name is there already
    other = program.with_name(f"changed-{program.name}")
    other.write_text(program.read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")
    now = sha256(other)
    resume = ["train", run, "--resume", "--quiet", option, other]
    reads = ["generate", run, "--max-tokens", 2, "--plugin", other]
    for arguments in [resume] if option == "--reward" else [resume, reads]:
        exit_code, error = said(capsys, *arguments)
        assert (exit_code, lines_of(places), len(error.splitlines())) == (2, [], 1), error
        assert f"{other} is not the program that {run} was trained with" in error
        assert f"its sha256 was {before}, is {now}" in error
        assert "add --accept-changes" in error
    exit_code, error = said(capsys, *resume, "--accept-changes")
    assert exit_code == 0, error
    manifest = read_manifest(RunFolder(run))
    assert manifest["programs"] == [{"option": option, "name": str(other), "sha256": now}]
    (record,) = manifest["accepted"]
    assert (record["file"], record["was"], record["now"]) == (str(other), before, now)
    assert said(capsys, *resume)[0] == 0
    assert said(capsys, "train", run, "--resume", "--quiet", option, program)[0] == 2


def test_what_runs_is_what_was_hashed_not_a_compiled_copy(
    places: Places, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import importlib.util
    import py_compile

    plugin, evil = tmp_path / "harmless.py", tmp_path / "evil.py"
    plugin.write_text("x = 1\n", encoding="utf-8")
    set_trap(evil, places.marker)
    py_compile.compile(
        str(evil),
        cfile=importlib.util.cache_from_source(str(plugin)),
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        doraise=True,
    )
    command = ["generate", places.rewarded, "--max-tokens", 2, "--plugin", plugin]
    assert said(capsys, *command) == (0, "")
    assert lines_of(places) == []


def _zipped(path: Path, marker: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("__main__.py", TRAP.format(marker=str(marker)))


def _linked(path: Path, marker: Path) -> None:
    set_trap(path.with_name("elsewhere.py"), marker)
    path.symlink_to("elsewhere.py")


def _folder(path: Path, marker: Path) -> None:
    path.mkdir()
    set_trap(path / "__main__.py", marker)
    set_trap(path / "__init__.py", marker)


FORMS: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "no suffix": ("rewards", set_trap),
    "capitals": ("x.PY", set_trap),
    "another suffix": ("x.txt", set_trap),
    "an archive": ("archive.py", _zipped),
    "a link": ("link.py", _linked),
    "a folder": ("folder.py", _folder),
    "a name to escape": ("a b'\x1b[31m.py", set_trap),
}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such links and names")
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_no_form_of_a_name_in_a_configuration_is_executed(
    form: Any, places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    name, make = form
    make(places.rewarded / name, places.marker)
    edit(places.rewarded, {"reward: reward.py": f"reward: {json.dumps(name)}"}, [])
    for arguments in (
        ["train", places.rewarded, "--resume"],
        ["train", places.rewarded / "config.yaml", "--out", "out"],
        ["verify-resume", places.rewarded / "config.yaml", "--steps", "2"],
    ):
        exit_code, error = said(capsys, *arguments)
        assert (exit_code, lines_of(places), len(error.splitlines())) == (2, [], 1), error
        assert "\x1b" not in error


def test_the_command_that_goes_on_names_the_programs_again() -> None:
    consent.allow(consent.Program("--plugin", "my part.py", Path("/my part.py"), "0"))
    consent.allow(consent.Program("--reward", "rules.py", Path("/rules.py"), "1"))
    consent.allow(consent.Program("--judge", "judge.py", Path("/judge.py"), "2"))
    want = "bptool train 'a run' --resume --plugin 'my part.py' --reward rules.py"
    assert resume_command("a run") == want


def test_a_stopped_run_says_so_in_a_real_process(places: Places, tmp_path: Path) -> None:
    rules = tmp_path / "my rules.py"
    shutil.copy(places.rules, rules)
    arguments = [
        *("finetune", "grpo", places.base / "base", "--prompts", places.prompts, "--reward", rules),
        *("--out", tmp_path / "run", "--steps", "2", "--prompts-per-step", "2"),
        *("--max-tokens", "3", "--quiet"),
    ]
    process = runs.process(*map(str, arguments), cwd=tmp_path)
    _, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    manifest = read_manifest(RunFolder(tmp_path / "run"))
    want = {"option": "--reward", "name": str(rules), "sha256": sha256(rules)}
    assert manifest["programs"] == [want]
    resume = ["train", str(tmp_path / "run"), "--resume", "--time-limit", "1s", "--quiet"]
    more = ["--set", "training.steps=100000"]
    process = runs.process(*resume, *more, "--reward", "my rules.py", cwd=tmp_path)
    _, error = process.communicate(timeout=600)
    assert process.returncode == 124, error
    assert f"bptool train {tmp_path / 'run'} --resume --reward 'my rules.py'" in error


def test_processes_of_ours_take_no_module_from_the_working_folder(
    places: Places, tmp_path: Path
) -> None:
    """As the installed script, whose folder is the first that Python looks into."""
    script = tmp_path / "bin" / "bptool-script.py"
    script.parent.mkdir()
    script.write_text(
        "import sys\nfrom bptool.cli.main import main\n"
        "if __name__ == '__main__':\n    sys.exit(main())\n",
        encoding="utf-8",
    )
    root = str(Path(__file__).resolve().parent.parent)
    config = runs.write_config(tmp_path, runs.settings(places.base / "text.txt", runs.MLP, steps=2))
    settings = "cache_dir: evil\ncache_locator_classes: UserProvidedCacheLocator\n"
    (places.rewarded / ".numba_config.yaml").write_text(settings, encoding="utf-8")
    for arguments in (
        ["generate", ".", "--max-tokens", "2"],
        ["train", config, "--plan", "--measure-again"],
        [
            *("compare-optimizers", config, "--optimizers", "sgd", "--learning-rate", "sgd=0.1"),
            *("--seeds", "1", "--out", tmp_path / "study", "--quiet", "--processes", "1"),
        ],
    ):
        done = subprocess.run(
            [sys.executable, str(script), *map(str, arguments)],
            cwd=places.rewarded,
            env={**os.environ, "PYTHONPATH": root},
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        assert lines_of(places) == [], done.stderr
        assert done.returncode == 0, done.stderr
        assert not (places.rewarded / "evil").exists()  # a place of pickles


def test_a_run_of_an_optimizer_that_is_not_there(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    run = places.adapted
    edit(run, {"optimizer:\n  name: adamw": "optimizer:\n  name: mine\n  odd: [1, {a: .5}]"}, [])
    text = (run / "config.yaml").read_text(encoding="utf-8")
    edit(run, {f"{line}\n": "" for line in text.splitlines() if "learning_rate:" in line}, [])
    for command in ("generate", "eval", "chat"):
        assert said(capsys, command, run)[0] == 0
    assert said(capsys, "merge", run, "--out", "merged")[0] == 0
    assert "  odd:\n    - 1\n    - a: 0.5\n" in Path("merged/config.yaml").read_text("utf-8")
    tune = ["finetune", "sft", "merged", "--data", places.base / "records.jsonl", "--quiet"]
    tune += ["--set", "training.steps=1"]
    exit_code, error = said(capsys, *tune)
    assert (exit_code, "unknown optimizer 'mine'" in error) == (2, True), error
    exit_code, error = said(capsys, *tune, "--set", "optimizer.name=adamw")
    assert exit_code == 0, error
    assert lines_of(places) == []


def test_a_run_of_a_model_that_is_not_there_says_what_to_name(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    model = {"option": "--plugin", "name": "my model.py", "sha256": "0" * 64}
    edit(places.rewarded, {"name: gpt2": "name: mine"}, [model])
    for command in ("generate", "chat", "eval"):
        exit_code, error = said(capsys, command, places.rewarded)
        assert (exit_code, lines_of(places)) == (2, [])
        assert "look at them, then add --plugin 'my model.py'" in error
