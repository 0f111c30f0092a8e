"""The folder of a study.

    results.jsonl        a header, then one object a trial as it ends: its configuration, seeds,
                         curve, status, and the command that replays it as a training run
    trials/NAME.yaml     the configuration of each trial, which that command reads
    losses.png           the curves

NaN and infinity, which JSON has not, are null. ``results.jsonl`` is replaced as a whole after
each trial, so a study that is killed leaves whole lines.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bptool.comparison.trial import Outcome, Trial
from bptool.config.dump import to_yaml
from bptool.errors import RunError
from bptool.files import write_text

FORMAT_VERSION = 1
KIND = "bptool optimizer comparison"


class ResultsFolder:
    """Paths of a study's files. Makes nothing until :meth:`create`.

    Args:
        path: the folder. plugins: what a replay has to load, as ``--plugin`` takes it.
    """

    def __init__(self, path: Path, plugins: Sequence[str] = ()) -> None:
        self.path, self.plugins = Path(path), tuple(plugins)
        self.results = self.path / "results.jsonl"
        self.plot = self.path / "losses.png"
        self.trials = self.path / "trials"
        self._lines: list[str] = []

    def require_free(self) -> None:
        """Raise a RunError where the folder holds anything, or is a file."""
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            what = "is not empty" if self.path.is_dir() else "is a file"
            raise RunError(f"{self.path} {what}; choose another folder with --out")

    def create(self, trials: Sequence[Trial], about: dict[str, Any]) -> None:
        """Make the folder with the header and every trial's configuration.

        Args:
            about: goes into the header: versions, machine, text.
        """
        self.require_free()
        try:
            self.trials.mkdir(parents=True, exist_ok=True)
            for trial in trials:
                write_text(self._config(trial), to_yaml(trial.config))
            self._append({**about, "format_version": FORMAT_VERSION, "kind": KIND})
        except OSError as error:
            reason = error.strerror or error
            raise RunError(
                f"cannot write the results in {self.path}: {reason}; choose another folder "
                "with --out"
            ) from None

    def add(self, outcome: Outcome) -> None:
        """Write down how a trial ended."""
        try:
            self._append(self.record(outcome))
        except OSError as error:
            raise RunError(f"cannot write {self.results}: {error.strerror or error}") from None

    def record(self, outcome: Outcome) -> dict[str, Any]:
        """A trial's line of ``results.jsonl`` as plain values."""
        values = {field.name: getattr(outcome, field.name) for field in dataclasses.fields(outcome)}
        trial = values.pop("trial")
        values["curve"] = [dataclasses.asdict(point) for point in outcome.curve]
        head = {
            "kind": "trial",
            "optimizer": trial.optimizer,
            "learning_rate": trial.learning_rate,
            "seed": trial.seed,
            "data_seed": trial.config.training.data_seed,
        }
        config = trial.config.model_dump(mode="json")
        return {**head, **values, "command": self.replay_command(trial), "config": config}

    def replay_command(self, trial: Trial) -> str:
        """The command line that trains ``trial`` again as a run of its own."""
        words = ["bptool", "train", str(self._config(trial))]
        words += ["--out", str(self.path / "replays" / trial.name)]
        for plugin in self.plugins:
            words += ["--plugin", plugin]
        return shlex.join(words)

    def _config(self, trial: Trial) -> Path:
        return self.trials / f"{trial.name}.yaml"

    def _append(self, record: dict[str, Any]) -> None:
        self._lines.append(json.dumps(finite(record), ensure_ascii=False, allow_nan=False) + "\n")
        write_text(self.results, "".join(self._lines))


def finite(value: Any) -> Any:
    """``value`` with None for every NaN and infinity in it."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
