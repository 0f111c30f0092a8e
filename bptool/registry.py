"""Registries of the parts a user can choose by name, or add from a file of their own.

A part is a class with a ``Config`` (a :class:`bptool.config.section.Section`) registered
under a name::

    @optimizers.register("my-rule")
    class MyRule(Optimizer):
        Config = MyRuleConfig

Looking a name up imports the package that holds our own parts, so that this module stays
free of heavy imports.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from bptool.errors import ConfigError, did_you_mean


class Registry:
    """Names of one kind of part, each with its class.

    Args:
        kind: what the parts are, for messages: ``"optimizer"``.
        package: the package whose import registers our own parts: ``"bptool.optim"``.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._classes: dict[str, type[Any]] = {}

    def register(self, name: str) -> Callable[[type[Any]], type[Any]]:
        """Class decorator: make the class known as ``name``. Refuses a name already taken."""

        def add(cls: type[Any]) -> type[Any]:
            if name in self._classes:
                raise ConfigError(
                    f"{self.kind} '{name}' is registered already; choose another name"
                )
            if not hasattr(cls, "Config"):
                raise ConfigError(f"{self.kind} '{name}' has no Config class; see CONTRIBUTING.md")
            self._classes[name] = cls
            cls.name = name
            return cls

        return add

    def names(self) -> list[str]:
        """All known names, sorted."""
        importlib.import_module(self.package)
        return sorted(self._classes)

    def get(self, name: str) -> type[Any]:
        """The class registered as ``name``, or a ConfigError with the nearest name."""
        importlib.import_module(self.package)
        if name not in self._classes:
            raise ConfigError(f"unknown {self.kind} {name!r}{did_you_mean(name, self._classes)}")
        return self._classes[name]


models = Registry("model", "bptool.models")
optimizers = Registry("optimizer", "bptool.optim")
schedules = Registry("schedule", "bptool.optim.schedules")
averages = Registry("weight average", "bptool.optim.averages")
regularizers = Registry("regularizer", "bptool.regularizers")
tokenizers = Registry("tokenizer", "bptool.data.tokenizers")
templates = Registry("chat template", "bptool.data.chat.templates")
objectives = Registry("objective", "bptool.objectives")
