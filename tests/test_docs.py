"""The documentation against the project: links, files, command lines, YAML, programs, pictures."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bptool.cli.commands import COMMANDS, load

ROOT = Path(__file__).resolve().parent.parent
PICTURES = sorted((ROOT / "docs" / "screens").glob("*"))
FOLDERS = ("*.md", "docs/*.md", "docs/studies/*.md", "data/README.md")
PAGES = sorted(page for folder in FOLDERS for page in ROOT.glob(folder))
IDS = [path.relative_to(ROOT).as_posix() for path in PAGES]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED_FILE = re.compile(r"`((?:bptool|configs|data|docs|tests|benchmarks)/[\w./-]*)`")
COMMAND_SPAN = re.compile(r"`(bptool [^`]+)`")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
MAX_PICTURE_BYTES = 150_000


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return [body for name, body in BLOCK.findall(text_of(page)) if name == language]


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def command_lines(page: Path) -> Iterator[str]:
    """Every whole ``bptool`` command of a page: lines of blocks without a language, and spans."""
    for body in blocks(page, ""):
        for line in body.replace("\\\n", " ").splitlines():
            command = line.removeprefix("$ ").rpartition("| ")[2].partition("  #")[0].strip()
            if command.startswith("bptool ") and ":" not in command.split()[1]:
                yield command
    prose = BLOCK.sub("", text_of(page))
    for span in COMMAND_SPAN.findall(prose):
        yield " ".join(span.split())


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(BLOCK.sub("", text_of(page))):
        if "://" in target:
            assert target.startswith("https://"), target
            continue
        path, _, fragment = target.partition("#")
        aim = (page.parent / path).resolve() if path else page
        assert aim.exists(), f"{page.name} links to {target}"
        if fragment:
            assert fragment in map(anchor, HEADING.findall(text_of(aim))), target


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_files_named_in_the_text_exist(page: Path) -> None:
    for name in NAMED_FILE.findall(text_of(page)):
        if "my_" in name or "/x.py" in name:  # stands for a file that the reader makes
            continue
        assert (ROOT / name).exists(), f"{page.name} names {name}"


@functools.cache
def settings() -> frozenset[str]:
    """Every key that the shipped configurations resolve to, with the sections above it."""
    from bptool.config.load import flatten, resolve

    keys = {"optimizer.name", "key.path"}
    for path in (ROOT / "configs").glob("*.yaml"):
        for key in flatten(resolve(path).config):
            parts = key.split(".")
            keys |= {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
    return frozenset(keys)


def parse(command: str) -> None:
    """Parse a command line with the command's own parser; raises on an unknown option or value.

    Prose may name a command without its arguments.
    """
    words = shlex.split(command)[1:]
    if words[0].startswith("-"):
        assert words[0] in ("--help", "--version"), command
        return
    assert words[0] in COMMANDS, f"no command {words[0]} in: {command}"
    part, rest = load(words[0]), [word for word in words[1:] if word not in ("--debug", "--help")]
    while hasattr(part, "commands") and rest:
        assert rest[0] in part.commands, f"no command {rest[0]} in: {command}"
        part, rest = part.commands[rest[0]], rest[1:]
    if hasattr(part, "commands"):
        return
    try:
        with part.make_context(words[0], rest) as context:
            for setting in context.params.get("sets") or ():
                key = setting.partition("=")[0]
                assert key in settings(), f"no setting {key} in: {command}"
    except Exception as error:
        if type(error).__name__ != "MissingParameter":
            raise


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_command_lines_parse(page: Path) -> None:
    for command in command_lines(page):
        parse(command)


def test_the_readme_shows_every_command() -> None:
    shown = {command.split()[1] for command in command_lines(ROOT / "README.md")}
    assert shown >= set(COMMANDS)


@pytest.mark.parametrize(
    "command",
    [
        "bptool trian book.txt",
        "bptool train book.txt --nonsense",
        "bptool train --nonsense",
        "bptool generate RUN --seed one",
        "bptool config chema",
        "bptool train book.txt --set training.stepps=2",
    ],
)
def test_a_command_line_that_is_wrong_is_found(command: str) -> None:
    with pytest.raises(Exception, match=r"no command|no setting|[Nn]o such option|valid integer"):
        parse(command)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_yaml_loads_as_a_configuration(page: Path, tmp_path: Path) -> None:
    from bptool.config.load import is_study, read_study, resolve

    for body in blocks(page, "yaml"):
        assert isinstance(yaml.safe_load(body), dict)
        file = tmp_path / "example.yaml"
        file.write_text(body, encoding="utf-8")
        if is_study(file):
            read_study(file)
        else:
            resolve(file)


def program_and_output(page: Path) -> Iterator[tuple[str, str]]:
    """Each Python block that prints, and the block that follows it as its output."""
    found = BLOCK.findall(text_of(page))
    for (language, body), (next_language, output) in itertools.pairwise(found):
        if language == "python" and next_language == "" and "print(" in body:
            yield body, output


def test_programs_print_what_the_page_says() -> None:
    page = ROOT / "docs" / "gradients.md"
    pairs = list(program_and_output(page))
    assert len(pairs) == 2
    space: dict[str, Any] = {}
    for program, output in pairs:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(program, str(page), "exec"), space)
        assert numbers_and_words(printed.getvalue()) == numbers_and_words(output)


def numbers_and_words(output: str) -> list[Any]:
    """The words of an output, its numbers to three digits: the last ones depend on the machine."""
    words: list[Any] = []
    for word in output.split():
        try:
            words.append(f"{float(word):.2e}")
        except ValueError:
            words.append(word)
    return words


def test_the_page_of_configuration_keys_is_up_to_date() -> None:
    # In a process of its own, where no test has registered parts.
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'docs')!r}); import write_config; "
        "sys.stdout.buffer.write(write_config.page().encode())"
    )
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert text_of(ROOT / "docs" / "config.md") == made.stdout.decode(), "run 'make docs'"


def test_every_configuration_key_is_on_the_page() -> None:
    from bptool.config.load import flatten, resolve

    page = text_of(ROOT / "docs" / "config.md")
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        for key in flatten(resolve(path).config):
            last = key.rpartition(".")[2]
            assert last in ("name", "format_version") or f"`{last}`" in page, key


@pytest.mark.parametrize("path", PICTURES, ids=lambda p: p.name)
def test_pictures_are_small_and_name_no_machine(path: Path) -> None:
    assert path.suffix in (".svg", ".png")
    assert path.stat().st_size < MAX_PICTURE_BYTES
    if path.suffix == ".svg":
        picture = text_of(path)
        for place in ("/tmp", "/root", "/home", "/work", "/Users", "http://www.w3.org/1999/xlink"):
            assert place not in picture
        assert "@font-face" not in picture  # nothing is fetched from elsewhere


def test_every_picture_is_shown_and_every_screen_recorded() -> None:
    links = [target for page in PAGES for target in LINK.findall(text_of(page))]
    shown = {Path(target).name for target in links if "screens/" in target}
    assert {path.name for path in PICTURES} <= shown
