"""Rules in place of a person: a Python file of the user's, run only when they name it.

    judge(prompt, left, right) -> "left", "right" or "tie"     which of two answers is better
    reward(prompt, answer) -> number                           how good one is
    correct(prompt, answer) -> bool                            whether it is right

All arguments are texts; of a conversation the prompt is what was said last. A file needs those that
are asked of it; without ``judge`` the higher reward is better.

A function that has more parameters is given what else is in the prompt's record: ``record`` is all
of it, a parameter with another name is the value of that column, and ``**columns`` takes all
columns whose names are not taken. What the code prints goes to the standard error.
"""

from __future__ import annotations

import inspect
import math
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np

from bptool import user_output
from bptool.errors import UserError
from bptool.plugins import run_rules

Side = Literal["left", "right", "tie"]
SIDES = ("left", "right", "tie")
Columns = Mapping[str, Any]
"""A record as it was read, by column."""
RECORD = "record"
"""The parameter that takes all of a record."""
EXCERPT = 60
"""Characters of a prompt or a value that a message repeats."""


class Rule(NamedTuple):
    """A function of the file, and what it asks for besides its texts.

    Attributes:
        by_position, by_name: parameters that take a column, or the record; and how they are passed.
        needed: the columns without which it cannot be called.
        takes_all: whether it takes all further columns.
        texts: those of the texts that it takes by name only.
        first: what it calls those that it takes by position.
    """

    name: str
    function: Callable[..., Any]
    by_position: tuple[str, ...] = ()
    by_name: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()
    takes_all: bool = False
    texts: tuple[str, ...] = ()
    first: tuple[str, ...] = ()

    def arguments(
        self, texts: Mapping[str, str], columns: Columns
    ) -> tuple[list[Any], dict[str, Any]]:
        """What the function is called with."""
        given: list[Any] = [text for name, text in texts.items() if name not in self.texts]
        named: dict[str, Any] = {name: texts[name] for name in self.texts}
        for name in self.by_position:
            if name != RECORD and name not in columns:
                break  # it has a default, as have those behind it
            given.append(dict(columns) if name == RECORD else columns[name])
        for name in self.by_name:
            if name == RECORD:
                named[name] = dict(columns)
            elif name in columns:
                named[name] = columns[name]
        if self.takes_all:
            taken = {"prompt", *self.texts, *self.first, *self.by_position}
            named |= {key: x for key, x in columns.items() if key not in taken}
        return given, named


class Rules:
    """The functions of a rules file.

    Raises:
        UserError: the user has not named the file, it fails, or it has none of the functions.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with user_output.to_stderr():
                names = run_rules(path)
        except UserError:
            raise
        except (Exception, SystemExit) as error:  # whatever a user's file may raise
            raise UserError(f"{self._place(error)} fails: {_named(error)}") from None
        pair = ("prompt", "left", "right")
        self._judge = _rule(names, "judge", pair)
        self._reward = _rule(names, "reward", ("prompt", "answer"))
        self._correct = _rule(names, "correct", ("prompt", "answer"))
        if self._judge is None and self._reward is None:
            raise UserError(
                f"{path} has neither judge(prompt, left, right) nor reward(prompt, answer); "
                "write one of them"
            )

    @property
    def rewards(self) -> bool:
        """Whether it has a reward."""
        return self._reward is not None

    @property
    def knows_correct(self) -> bool:
        """Whether it can tell right answers from wrong ones."""
        return self._correct is not None

    def check(self, columns: Columns, place: str, rewards_only: bool = False) -> None:
        """Raise a UserError where a function that is called asks for a column that the record at
        ``place`` does not have."""
        others = (self._judge, self._correct)
        for rule in (self._reward, *(() if rewards_only else others)):
            missing = [] if rule is None else [n for n in rule.needed if n not in columns]
            if rule is not None and missing:
                found = ", ".join(repr(key) for key in list(columns)[:6])
                raise UserError(
                    f"{self.path}: {rule.name} asks for '{missing[0]}', which the record of "
                    f"{place} does not have (it has {found}); add the column, or give the "
                    "parameter a default"
                )

    def uses(self, column: str) -> bool:
        """Whether the reward is given a column."""
        rule = self._reward
        asked = () if rule is None else (*rule.by_position, *rule.by_name)
        takes_all = rule is not None and rule.takes_all
        return takes_all or RECORD in asked or column in asked

    def judge(self, prompt: str, left: str, right: str, columns: Columns | None = None) -> Side:
        """Which of two answers is better."""
        if self._judge is None:
            rewards = self.reward(prompt, left, columns), self.reward(prompt, right, columns)
            if rewards[0] == rewards[1]:
                return "tie"
            return "left" if rewards[0] > rewards[1] else "right"
        texts = {"prompt": prompt, "left": left, "right": right}
        side = self._call(self._judge, texts, columns)
        if side not in SIDES:
            raise UserError(
                f"{self.path}: judge returned {_short(side)}; return one of {', '.join(SIDES)}"
            )
        return cast(Side, side)

    def reward(self, prompt: str, answer: str, columns: Columns | None = None) -> float:
        """How good an answer is."""
        if self._reward is None:
            raise UserError(f"{self.path} has no reward(prompt, answer); write one")
        value = self._call(self._reward, {"prompt": prompt, "answer": answer}, columns)
        number = _number(value)
        if number is None:
            raise UserError(
                f"{self.path}: reward returned {_short(value)} for the prompt {_short(prompt)}; "
                "return a finite number"
            )
        return number

    def correct(self, prompt: str, answer: str, columns: Columns | None = None) -> bool:
        """Whether an answer is right."""
        assert self._correct is not None
        return bool(self._call(self._correct, {"prompt": prompt, "answer": answer}, columns))

    def _call(self, rule: Rule, texts: dict[str, str], columns: Columns | None) -> Any:
        given, named = rule.arguments(texts, columns or {})
        try:
            with user_output.to_stderr():
                return rule.function(*given, **named)
        except (Exception, SystemExit) as error:  # whatever a user's function may raise
            place = self._place(error)
            raise UserError(f"{place}: {rule.name} fails: {_named(error)}") from None

    def _place(self, error: BaseException) -> str:
        """The file, and the deepest of its lines that the error came through."""
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(self.path)]
        return f"{self.path}:{lines[-1]}" if lines else str(self.path)


def _rule(names: dict[str, Any], name: str, texts: tuple[str, ...]) -> Rule | None:
    """The function ``name`` of a file, which takes ``texts`` first."""
    function = names.get(name)
    if not callable(function):
        return None
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # of a built-in function
        return Rule(name, function)
    kinds = inspect.Parameter
    placed = [
        p for p in parameters if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
    ]
    by_keyword = [p for p in parameters if p.kind is kinds.KEYWORD_ONLY]
    more = placed[len(texts) :]
    only = [p for p in more if p.kind is kinds.POSITIONAL_ONLY]
    either = [p for p in (*more, *by_keyword) if p.kind is not kinds.POSITIONAL_ONLY]
    asked = [p for p in either if p.name not in texts]
    return Rule(
        name,
        function,
        by_position=tuple(p.name for p in only),
        by_name=tuple(p.name for p in asked),
        needed=tuple(
            p.name for p in (*only, *asked) if p.default is kinds.empty and p.name != RECORD
        ),
        takes_all=any(p.kind is kinds.VAR_KEYWORD for p in parameters),
        texts=tuple(p.name for p in by_keyword if p.name in texts),
        first=tuple(p.name for p in placed[: len(texts)]),
    )


def _number(value: Any) -> float | None:
    """A finite number of any type, NumPy's among them; None for anything else."""
    if isinstance(value, str | bytes) or np.ndim(value) != 0 or np.iscomplexobj(value):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _short(value: Any) -> str:
    """``value`` as code spells it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= EXCERPT else f"{text[:EXCERPT]}..."


def _named(error: BaseException) -> str:
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
