"""Measurements of the machine for predictions, kept in the user's cache folder.

One file for each processor, number of workers, engine, and state of the kernels and libraries; in
it, rates for each kind of model and each optimizer, measured when first asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from bptool.data.cache import cache_folder
from bptool.errors import DataError
from bptool.files import write_json
from bptool.models.base import Model
from bptool.ops import jit
from bptool.optim.adamw import AdamW
from bptool.optim.base import Optimizer
from bptool.regularizers.base import GradientModifier
from bptool.training import machine
from bptool.training.calibrate import Say, measure_modifier, measure_rates, measure_update
from bptool.training.cost import PassRate, Rates, TensorRuleRate, UpdateRate, pass_from_json
from bptool.training.small_run import SmallRun, run_small

FORMAT_VERSION = 1
FOLDER = "measurements"
"""Of the cache."""

T = TypeVar("T")


@dataclass
class Measurements:
    """What is known of a machine, read from its file and completed as it is needed.

    Args:
        engine, n_workers: of the runs to predict. say: told what is measured.
        again: measure whatever is asked for anew.
        plugins: that a run of its own needs.
    """

    engine: machine.Engine
    n_workers: int
    say: Say
    again: bool = False
    plugins: Sequence[str] = ()
    measured: list[str] = field(default_factory=list)
    """What had to be measured."""

    def __post_init__(self) -> None:
        self._identity = {
            **machine.describe(),
            "kernels": jit.kernel_fingerprint(),
            "engine": [self.engine.name, self.engine.version],
            "workers": self.n_workers,
            "peak_memory": machine.peak_memory_bytes() is not None,
        }
        digest = hashlib.sha256(json.dumps(self._identity, sort_keys=True).encode()).hexdigest()
        self._name = f"{digest[:32]}.json"
        self._values = self._read()

    def rates(self, kind: type[Model]) -> Rates:
        """Of models of a kind."""
        update = self.update(AdamW(AdamW.Config()))
        return self._get(
            f"model {_name_of(kind)}",
            Rates.from_json,
            lambda: measure_rates(kind, self.engine, self.n_workers, update, self.say).to_json(),
        )

    def update(self, optimizer: Optimizer) -> UpdateRate:
        """Of an optimizer with its settings."""

        def measure() -> dict[str, Any]:
            self.say(f"updates by {optimizer.name}")
            return asdict(measure_update(optimizer, self.engine, self.n_workers))

        settings = optimizer.config.model_dump(mode="json", exclude={"groups", "learning_rate"})
        key = f"optimizer {_name_of(type(optimizer))} {json.dumps(settings, sort_keys=True)}"
        return self._get(key, _update_from_json, measure)

    def modifier(self, rule: GradientModifier) -> PassRate:
        """Of a change of the gradient."""

        def measure() -> dict[str, Any]:
            self.say(f"{rule.name}")
            return asdict(measure_modifier(rule, self.n_workers))

        return self._get(f"modifier {_name_of(type(rule))}", pass_from_json, measure)

    def small_run(self, kind: type[Model]) -> SmallRun:
        """What a run takes beside its arrays."""

        def measure() -> dict[str, Any]:
            self.say("a very small run")
            model = kind.references()[0].model
            return asdict(run_small(model, self.engine.name, self.n_workers, self.plugins))

        return self._get(f"run {_name_of(kind)}", lambda values: SmallRun(**values), measure)

    def _get(
        self,
        key: str,
        read: Callable[[Mapping[str, Any]], T],
        measure: Callable[[], dict[str, Any]],
    ) -> T:
        known = self._values.get(key)
        if known is not None and not (self.again and key not in self.measured):
            with contextlib.suppress(LookupError, TypeError, ValueError):
                return read(known)
        self._values[key] = measure()
        self.measured.append(key)
        file = {"format_version": FORMAT_VERSION, "of": self._identity, "values": self._values}
        with contextlib.suppress(OSError, DataError):  # then it is measured again the next time
            write_json(cache_folder(FOLDER) / self._name, file)
        return read(self._values[key])

    def _read(self) -> dict[str, Any]:
        """What is kept; nothing where there is no file, or none that can be read."""
        try:
            text = (cache_folder(FOLDER) / self._name).read_text(encoding="utf-8")
            kept = json.loads(text)
            values = kept["values"] if kept["format_version"] == FORMAT_VERSION else {}
        except (OSError, ValueError, LookupError, TypeError, DataError):
            return {}
        return values if isinstance(values, dict) else {}


def _update_from_json(values: Mapping[str, Any]) -> UpdateRate:
    return pass_from_json(values) if "samples" in values else TensorRuleRate(**values)


def _name_of(kind: type) -> str:
    """Its place, and for a part of a plug-in what its file holds."""
    name = f"{kind.__module__}.{kind.__qualname__}"
    if kind.__module__.startswith("bptool."):
        return name  # the kernels' fingerprint has it
    source = Path(inspect.getfile(kind)).read_bytes()
    return f"{name} {hashlib.sha256(source).hexdigest()[:16]}"
