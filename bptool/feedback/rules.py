"""Rules in place of a person: a Python file of the user's, run only when they name it.

    judge(prompt, left, right) -> "left", "right" or "tie"     which of two answers is better
    reward(prompt, answer) -> float                            how good one is
    correct(prompt, answer) -> bool                            whether it is right

All arguments are texts; of a conversation the prompt is what was said last. A file needs those that
are asked of it; without ``judge`` the higher reward is better.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

from bptool.errors import UserError
from bptool.plugins import run_rules

Side = Literal["left", "right", "tie"]
SIDES = ("left", "right", "tie")


class Rules:
    """The functions of a rules file.

    Raises:
        UserError: the user has not named the file, it fails, or it has none of the functions.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            names = run_rules(path)
        except UserError:
            raise
        except Exception as error:  # whatever a user's file may raise
            raise UserError(f"{path} fails: {type(error).__name__}: {error}") from None
        self._judge, self._reward = _function(names, "judge"), _function(names, "reward")
        self._correct = _function(names, "correct")
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

    def judge(self, prompt: str, left: str, right: str) -> Side:
        """Which of two answers is better."""
        if self._judge is None:
            rewards = self.reward(prompt, left), self.reward(prompt, right)
            if rewards[0] == rewards[1]:
                return "tie"
            return "left" if rewards[0] > rewards[1] else "right"
        side = self._call("judge", self._judge, prompt, left, right)
        if side not in SIDES:
            raise UserError(
                f"{self.path}: judge returned {side!r}; return one of {', '.join(SIDES)}"
            )
        return cast(Side, side)

    def reward(self, prompt: str, answer: str) -> float:
        """How good an answer is."""
        if self._reward is None:
            raise UserError(f"{self.path} has no reward(prompt, answer); write one")
        value = self._call("reward", self._reward, prompt, answer)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise UserError(f"{self.path}: reward returned {value!r}; return a finite number")
        return float(value)

    def correct(self, prompt: str, answer: str) -> bool:
        """Whether an answer is right."""
        assert self._correct is not None
        return bool(self._call("correct", self._correct, prompt, answer))

    def _call(self, name: str, function: Callable[..., Any], *arguments: str) -> Any:
        try:
            return function(*arguments)
        except Exception as error:  # whatever a user's function may raise
            raise UserError(f"{self.path}: {name} fails: {type(error).__name__}: {error}") from None


def _function(names: dict[str, Any], name: str) -> Callable[..., Any] | None:
    found = names.get(name)
    return found if callable(found) else None
