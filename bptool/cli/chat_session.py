"""A conversation in the foreground: reading what is said, commands, streaming the answer."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bptool.cli import terminal, wording
from bptool.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from bptool.cli.console import Console
    from bptool.inference.conversation import Conversation
    from bptool.inference.sampling import Sampling

HELP = {
    "/reset": "forget the conversation",
    "/undo": "take back the last turn",
    "/retry": "answer the last message anew",
    "/system TEXT": "what the system says; without a text, what it says now",
    "/save FILE": "write the conversation as a record to fine-tune on",
    "/seed N": "fix the draws",
    "/temperature X": "0 takes the likeliest token",
    "/help": "this list",
    "/quit": "end; Ctrl-D too",
}


@dataclass
class Settings:
    """How answers are drawn; commands change them."""

    system: str | None
    max_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int
    stop: tuple[str, ...] = ()

    def sampling(self, turn: int) -> Sampling:
        """The draws of a turn: each has its own."""
        from bptool.inference.sampling import Sampling

        base = Sampling(self.temperature, self.top_k, self.top_p, self.seed)
        return dataclasses.replace(base, seed=(self.seed + 0x9E3779B9 * turn) % 2**63)


class Quit(Exception):
    """The user ends the conversation."""


def talk(run: Path, settings: Settings, template: str | None, last: bool) -> None:
    """Talk until the user ends it."""
    from bptool.cli.console import Console
    from bptool.inference.answers import Answerer
    from bptool.inference.conversation import Conversation
    from bptool.ops.cores import usable_cores
    from bptool.registry import templates
    from bptool.training.trained import open_run
    from bptool.training.workers import WorkerTeam

    settings.sampling(0)  # a setting that is out of bounds is refused now
    opened = open_run(run, last)
    name = template or (opened.config.chat.template if opened.config.chat else None)
    if name is None:
        raise UserError(
            f"{run} was not trained to answer; teach it with `bptool finetune sft {run}`, or try "
            "it as it is with --template plain"
        )
    kind = templates.get(name)()
    missing = [mark for mark in kind.special_tokens if mark not in opened.tokenizer.special_tokens]
    if missing:
        raise UserError(
            f"the tokenizer of {run} has no {missing[0]}, which the template '{name}' needs; "
            "name another template, or fine-tune with this one"
        )
    console = Console()
    with WorkerTeam(usable_cores()) as team:
        answerer = Answerer(opened.model, opened.params, team, opened.tokenizer, kind)
        conversation = Conversation(answerer, settings.system or "", settings.stop)
        Talk(conversation, settings, console, wording.near_path(str(run))).go()


class Talk:
    """One conversation on a console."""

    def __init__(
        self, conversation: Conversation, settings: Settings, console: Console, name: str
    ) -> None:
        self.conversation, self.settings = conversation, settings
        self.console, self._name = console, name
        self._turn = 0
        self._interactive = sys.stdin.isatty()
        self._commands: dict[str, Callable[[str], None]] = {
            "reset": self._reset,
            "undo": self._undo,
            "retry": self._retry,
            "system": self._system,
            "save": self._save,
            "seed": self._seed,
            "temperature": self._temperature,
            "help": self._help,
            "quit": self._quit,
            "exit": self._quit,
        }

    def go(self) -> None:
        """Read and answer until the end."""
        if self._interactive:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401 - lets one edit the line
            self._note(f"{self._name}: talk to it; /help lists commands, /quit ends")
        while True:
            try:
                line = input("> " if self._interactive else "")
            except EOFError:
                break
            except KeyboardInterrupt:
                self.console.print()
                self._note("/quit ends the conversation")
                continue
            try:
                self._take(line.strip())
            except Quit:
                break
            except UserError as error:
                self._note(str(error), "yellow")

    def _take(self, line: str) -> None:
        if not line:
            return
        if not line.startswith("/"):
            self._say(line)
            return
        name, _, rest = line[1:].partition(" ")
        if name not in self._commands:
            raise UserError(f"no command /{name}{did_you_mean(name, self._commands)}")
        self._commands[name](rest.strip())

    def _say(self, text: str) -> None:
        self._turn += 1
        sampling = self.settings.sampling(self._turn)
        fitted, answer = self.conversation.say(text, self.settings.max_tokens, sampling)
        if fitted.n_dropped:
            self._note(f"the oldest {fitted.n_dropped} messages no longer fit and are left out")
        try:
            for piece in answer:
                terminal.write(piece, self.console.file)
        except KeyboardInterrupt:
            answer.close()  # type: ignore[attr-defined]
            terminal.write(" ...", self.console.file)
        terminal.write("\n", self.console.file)

    def _reset(self, rest: str) -> None:
        self.conversation.messages = []
        self._note("the conversation is forgotten")

    def _undo(self, rest: str) -> None:
        said = self.conversation.undo()
        self._note("there is nothing to undo" if said is None else f"taken back: {said}")

    def _retry(self, rest: str) -> None:
        said = self.conversation.undo()
        if said is None:
            raise UserError("there is nothing to answer anew")
        self._say(said)

    def _system(self, rest: str) -> None:
        if rest:
            self.conversation.system = rest
        self._note(f"system: {self.conversation.system or '(nothing)'}")

    def _save(self, rest: str) -> None:
        from bptool.data.chat.records import Message
        from bptool.files import read_replacing, write_text
        from bptool.training.run_folder import writing

        if not rest:
            raise UserError("/save needs the name of a file")
        if not self.conversation.messages:
            raise UserError("there is nothing to save")
        path = Path(rest).expanduser()
        head = [Message("system", self.conversation.system)] if self.conversation.system else []
        said = [*head, *self.conversation.messages]
        messages = [{"role": m.role, "content": m.content} for m in said]
        line = json.dumps({"messages": messages}, ensure_ascii=False) + "\n"
        with writing(path, "name another file"):
            before = read_replacing(path) if path.exists() else ""
            if before and not before.endswith("\n"):
                before += "\n"
            write_text(path, before + line)
        self._note(f"saved to {path}")

    def _seed(self, rest: str) -> None:
        self._change("seed", rest, int)

    def _temperature(self, rest: str) -> None:
        self._change("temperature", rest, float)

    def _change(self, name: str, rest: str, kind: type[int] | type[float]) -> None:
        if rest:
            try:
                value = kind(rest)
            except ValueError:
                raise UserError(f"/{name} needs a number, not {rest!r}") from None
            changed = copy.copy(self.settings)
            setattr(changed, name, value)
            changed.sampling(0)  # refuses what is out of bounds
            self.settings = changed
        self._note(f"{name}: {getattr(self.settings, name):g}")

    def _help(self, rest: str) -> None:
        for command, meaning in HELP.items():
            self._note(f"{command:16} {meaning}")

    def _quit(self, rest: str) -> None:
        raise Quit

    def _note(self, text: str, style: str = "dim") -> None:
        from rich.text import Text

        self.console.print(Text(text, style=style))
