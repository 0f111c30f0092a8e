"""Options that a message names exist in the command that says it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bptool.cli.commands import COMMANDS, load

pytestmark = pytest.mark.quick

PACKAGE = Path(__file__).resolve().parent.parent / "bptool"
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
COMMAND = re.compile(r"bptool ((?:[a-z][a-z-]* ?)+)([^`]*)")
EVERYWHERE = {"--help", "--debug", "--accept-changes", "--version"}

FINETUNE = ("finetune sft", "finetune dpo", "finetune reward", "finetune ppo", "finetune grpo")
PAIRS = ("finetune dpo", "finetune reward")
REWARDS = ("finetune ppo", "finetune grpo")
NEW_RUNS = ("train", *FINETUNE)
SAYS: dict[str, tuple[str, ...]] = {
    "api.py": ("train",),
    "cli/chat_session.py": ("chat",),
    "cli/comparison_report.py": ("compare-optimizers",),
    "cli/comparison_session.py": ("compare-optimizers",),
    "cli/display.py": NEW_RUNS,
    "cli/feedback_page.py": ("feedback",),
    "cli/feedback_session.py": ("feedback",),
    "cli/gradcheck_report.py": ("gradcheck",),
    "cli/lr_find_display.py": ("lr-find",),
    "cli/lr_find_session.py": ("lr-find",),
    "cli/stop.py": ("generate", "chat"),
    "cli/summary.py": ("train",),
    "cli/time_limit.py": ("train",),
    "comparison/budget.py": ("compare-optimizers",),
    "comparison/executors.py": ("compare-optimizers",),
    "comparison/request.py": ("compare-optimizers",),
    "comparison/results.py": ("compare-optimizers",),
    "comparison/settings.py": ("compare-optimizers",),
    "comparison/terms.py": ("compare-optimizers",),
    "config/load.py": ("train", "config show", "gradcheck", "lr-find", "profile"),
    "consent.py": ("train",),
    "data/chat/records.py": ("finetune sft", "data inspect", "eval"),
    "data/chat/rendering.py": (*PAIRS, *REWARDS),
    "data/preference_set.py": PAIRS,
    "data/record_report.py": (*FINETUNE, "eval"),
    "data/sources.py": ("train", "data prepare"),
    "data/survey.py": ("train",),
    "feedback/store.py": ("feedback",),
    "plugins.py": ("train", "verify-resume"),
    "recipes/fine_tuning.py": FINETUNE,
    "recipes/inherited.py": (*PAIRS, *REWARDS),
    "recipes/programs.py": ("train",),
    "recipes/training.py": ("train",),
    "training/anomaly.py": ("train",),
    "training/begin.py": ("train",),
    "training/checkpoint.py": ("train",),
    "training/lessons/pairs.py": PAIRS,
    "training/loop.py": ("train",),
    "training/lr_find_folder.py": ("lr-find",),
    "training/measure.py": ("eval",),
    "training/merge.py": ("finetune sft",),
    "training/moved.py": ("train",),
    "training/prompt_set.py": REWARDS,
    "training/run_folder.py": (*NEW_RUNS, "lr-find", "merge"),
    "training/small_run.py": ("train",),
    "training/spikes.py": ("train",),
    "training/trained.py": ("generate", "eval"),
    "training/verify_resume.py": ("verify-resume",),
}
"""Commands that show what a module says. Each has every option that the module names, but for those
in ``ONLY``."""
ONLY: dict[tuple[str, str], tuple[str, ...]] = {
    ("cli/summary.py", "--prompt"): ("generate",),
    ("comparison/results.py", "--plugin"): ("compare-optimizers",),
    ("data/preference_set.py", "--loss"): ("finetune dpo",),
    ("data/sources.py", "--as"): ("data inspect",),
    ("plugins.py", "--reward"): ("train", "verify-resume"),
    ("recipes/fine_tuning.py", "--epochs"): ("finetune sft", *PAIRS),
    ("recipes/fine_tuning.py", "--prompts-per-step"): REWARDS,
    ("recipes/fine_tuning.py", "--reward"): REWARDS,
    ("recipes/inherited.py", "--lora"): ("finetune sft",),
    ("recipes/programs.py", "--judge"): ("feedback", "evaluate-preference"),
    ("training/run_folder.py", "--resume"): ("train",),
    ("training/trained.py", "--plugin"): ("generate", "eval", "chat"),
}


def _options(command: Any, names: tuple[str, ...]) -> Iterator[tuple[str, set[str]]]:
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            yield from _options(child, (*names, name))
    else:
        own = {option for parameter in command.params for option in parameter.opts}
        yield " ".join(names), own | EVERYWHERE


OPTIONS = dict(pair for name in COMMANDS for pair in _options(load(name), (name,)))


class Said(NamedTuple):
    module: str
    line: int
    text: str


def said() -> Iterator[Said]:
    """Every string of the package that is no docstring; of one with values in it, all at once."""
    for path in sorted(PACKAGE.rglob("*.py")):
        module = path.relative_to(PACKAGE).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inner = set[int]()
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                inner.add(id(node.value))
            if isinstance(node, ast.JoinedStr):
                parts = [v.value if isinstance(v, ast.Constant) else "{}" for v in node.values]
                inner |= {id(v) for v in node.values}
                yield Said(module, node.lineno, "".join(map(str, parts)))
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if id(node) not in inner:
                    yield Said(module, node.lineno, node.value)


SAID = [one for one in said() if OPTION.search(one.text)]


def command_of(words: str) -> str | None:
    """The command that a line begins with: ``finetune sft`` of ``finetune sft RUN``."""
    names = words.split()
    for n in (2, 1):
        if " ".join(names[:n]) in OPTIONS:
            return " ".join(names[:n])
    return None


def test_there_are_messages_to_look_at() -> None:
    assert len(SAID) > 150
    assert len(OPTIONS) > 20


def test_commands_in_messages_have_the_options_that_they_are_given() -> None:
    n = 0
    for one in SAID:
        for words, rest in COMMAND.findall(one.text):
            command = command_of(words)
            if command is not None:
                n += 1
                for option in OPTION.findall(rest):
                    assert option in OPTIONS[command], f"{one.module}:{one.line}: {one.text}"
    assert n > 10


def test_options_that_messages_name_exist_where_they_are_said() -> None:
    wrong = []
    for one in SAID:
        bare = set(OPTION.findall(COMMAND.sub("", one.text))) - EVERYWHERE
        declares = one.module.startswith("cli/") and one.text.strip() in bare
        own = one.module.removeprefix("cli/").removesuffix(".py").replace("/", " ")
        own = own.replace("_", "-").replace("data", "data inspect")
        for option in sorted(bare):
            where = f"{one.module}:{one.line}: {one.text!r}"
            commands = ONLY.get((one.module, option)) or SAYS.get(one.module)
            if declares:
                commands = tuple(name for name, options in OPTIONS.items() if option in options)
            elif own in OPTIONS and commands is None:
                commands = (own,)
            if not commands:
                wrong.append(f"say in SAYS which commands show {where}")
            wrong += [
                f"{command} has no {option}: {where}"
                for command in commands or ()
                if option not in OPTIONS[command]
            ]
    assert not wrong, "\n".join(wrong)
