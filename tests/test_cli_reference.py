"""docs/commands.md says what the commands' own help says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from bptool.cli.commands import COMMANDS


def test_the_command_reference_is_up_to_date(root: Path) -> None:
    spec = importlib.util.spec_from_file_location("write_commands", root / "docs/write_commands.py")
    assert spec is not None
    assert spec.loader is not None
    write_commands = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(write_commands)
    found = (root / "docs" / "commands.md").read_text(encoding="utf-8")
    assert found == write_commands.page(), "run 'make docs'"
    for name in COMMANDS:
        assert f"\n## `bptool {name}`\n" in found
