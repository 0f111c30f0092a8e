"""The folder of a study.

    study.lock           while a process works in it
    results.jsonl        a header with the whole plan, then a line for each trial as it ends: its
                         configuration, seeds, curve, status, and the command that replays it as a
                         training run; and a line for each optimizer that was timed alone
    trials/NAME.yaml     the configuration of each trial, which that command reads
    report.html, *.png   what the analysis says of them, written anew at each end;
    tables.md,           as Markdown and
    report.json          as JSON
    widened.yaml         the study with wider search spaces, where the best lay at the edge of one

NaN and infinity, which JSON has not, are null. ``results.jsonl`` only grows, each line flushed to
the disk before the next trial counts on it. A kill in mid-line leaves a torn last line, which is
cut off when the study goes on. A trial that failed is tried again then, and its last line counts.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bptool import consent
from bptool.comparison.plan import Plan, Trial, Workload
from bptool.comparison.records import (
    Record,
    Timing,
    finite,
    record_from_line,
    timing_from_line,
)
from bptool.config.dump import to_yaml
from bptool.config.schema import RunConfig
from bptool.config.study_section import StudyConfig
from bptool.consent import Program
from bptool.errors import RunError
from bptool.files import (
    TEMPORARY_PREFIX,
    encoded,
    loads_strictly,
    open_regular,
    remove_leftovers,
    write_text,
)
from bptool.plugins import load_named, name_plugin
from bptool.training.lock import STUDY_LOCK, FolderLock

FORMAT_VERSION = 2
ACCEPTED = "accepted"
"""Kind of a line on a plug-in that was changed on purpose."""
MOST_PLUGINS = 8
"""That an error names."""
LONGEST_NAME = 4096
"""Of a plug-in, in characters; no system takes longer paths."""
KIND = "bptool optimizer study"
MOST_SHOWN = 300
"""Characters of what is wrong with a file."""


@dataclass(frozen=True)
class Kept:
    """What ``results.jsonl`` holds."""

    plan: Plan
    about: dict[str, Any]
    """Versions, machine, and each workload's text, as the study began."""
    plugins: tuple[str, ...]
    records: tuple[Record, ...]
    """One a trial; of several lines for one the last."""
    timings: tuple[Timing, ...]


class ResultsFolder:
    """Paths of a study's files. Makes nothing until :meth:`create`.

    Args:
        path: the folder. plugins: what a replay has to load, as ``--plugin`` takes it, and all that
            :meth:`read` may load.
    """

    def __init__(self, path: Path, plugins: Sequence[str] = ()) -> None:
        self.path, self.plugins = Path(path), tuple(plugins)
        self.results = self.path / "results.jsonl"
        self.report = self.path / "report.html"
        self.tables = self.path / "tables.md"
        self.plain = self.path / "report.json"
        self.trials = self.path / "trials"
        self._lock = FolderLock(self.path, STUDY_LOCK)

    def hold(self) -> str:
        """Keep other processes out until :meth:`release`, and remove what a killed one left half
        written; what was found in the lock's place, in a line, or nothing.

        Raises:
            RunError: another process works here.
        """
        self._lock.acquire()
        for folder in (self.path, self.trials):
            remove_leftovers(folder)
        return self._lock.notice

    def release(self) -> None:
        """Let other processes in; nothing where it is not held."""
        self._lock.release()

    def require_free(self) -> None:
        """Raise a RunError where the folder is a file, or holds more than what a study leaves that
        was killed before its first line."""
        if self.results.exists():
            raise RunError(
                f"{self.path} holds a study already; go on with it by --resume {self.path}, or "
                "choose another folder with --out"
            )
        if self.path.exists() and (not self.path.is_dir() or self._holds_more()):
            what = "is not empty" if self.path.is_dir() else "is a file"
            raise RunError(f"{self.path} {what}; choose another folder with --out")

    def _holds_more(self) -> bool:
        """Whether there is anything besides a lock, unfinished files and an empty ``trials``."""
        names = {path.name for path in self.path.iterdir()} - {STUDY_LOCK}
        if self.trials.is_dir() and not any(self.trials.iterdir()):
            names -= {self.trials.name}
        return not all(name.startswith(TEMPORARY_PREFIX) for name in names)

    def create(self, plan: Plan, about: dict[str, Any]) -> str:
        """Make the folder with the header, and hold it; as :meth:`hold`.

        Args:
            about: versions, machine and texts.
        """
        self.require_free()
        workloads = [
            {"name": w.name, "target": w.target, "config": w.config.model_dump(mode="json")}
            for w in plan.workloads
        ]
        header = {
            "kind": KIND,
            "format_version": FORMAT_VERSION,
            **about,
            "plugins": self.plugins,
            "plugins_sha256": {one.name: one.sha256 for one in consent.programs(("--plugin",))},
            "study": plan.study.model_dump(mode="json", exclude_unset=True),
            "workloads": workloads,
            "candidates": plan.candidates,
        }
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
        notice = self.hold()
        try:
            self.require_free()  # another process may have been here between
            with self._writing():
                self.trials.mkdir(exist_ok=True)
                # The first line is there whole or the file is not.
                write_text(self.results, _line(header))
        except BaseException:
            self.release()
            raise
        return notice

    def write_config(self, trial: Trial) -> None:
        """Write the configuration that a trial's command reads."""
        with self._writing():
            write_text(self._config(trial), to_yaml(trial.config))

    def add(self, trial: Trial, values: dict[str, Any]) -> Record:
        """Append the line of a trial that ended; ``values``: an outcome's fields by name."""
        line = {
            "kind": "trial",
            "name": trial.name,
            "phase": trial.phase,
            "workload": trial.workload,
            "optimizer": trial.optimizer,
            "number": trial.number,
            "seed": trial.seed,
            "data_seed": trial.config.training.data_seed,
            **NOTHING,
            **values,
            "command": self.replay_command(trial),
            "config": trial.config.model_dump(mode="json"),
        }
        self._append(line)
        return record_from_line(finite(line))

    def add_timing(self, timing: Timing, n_steps: int) -> None:
        """Append how long an optimizer's step takes alone."""
        self._append({"kind": "timing", **vars(timing), "n_steps": n_steps})

    def read(self) -> Kept:
        """Read a study back, cutting off a line that was never finished.

        Raises:
            RunError: there is no study here, or its file is damaged.
        """
        try:
            with open_regular(self.results) as file:
                data = file.read()
        except OSError:
            raise self._no_study() from None
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with self._writing(), open(self.results, "r+b") as file:
                file.truncate(whole)
        lines = [self._parse(n, text) for n, text in enumerate(data[:whole].splitlines(), 1)]
        if not lines or lines[0].get("kind") != KIND:
            raise RunError(f"{self.results}:1: not the header of a study")
        if lines[0].get("format_version") != FORMAT_VERSION:
            found = lines[0].get("format_version")
            raise RunError(
                f"{self.results}:1: format_version {ascii(found)[:40]}, this bptool reads "
                f"{FORMAT_VERSION}; begin the study anew in another folder"
            )
        header, rest = lines[0], lines[1:]
        plugins = header.get("plugins")
        if not isinstance(plugins, list) or not all(map(_is_name, plugins)):
            raise RunError(f"{self.results}:1: plugins is no list of names; the file is damaged")
        if unnamed := [plugin for plugin in plugins if plugin not in self.plugins]:
            named = " ".join(
                f"--plugin {consent.on_one_line(plugin)}" for plugin in unnamed[:MOST_PLUGINS]
            )
            raise RunError(
                f"{self.path} was begun with plug-ins, which are programs and run only when you "
                f"name them; look at them, then add {named}"
            )
        programs = [name_plugin(plugin) for plugin in plugins]
        self._check_unchanged(programs, header, rest)
        for program in programs:
            load_named(program)
        try:
            study = StudyConfig.model_validate(header["study"])
            workloads = tuple(
                Workload(w["name"], RunConfig.model_validate(w["config"]), w["target"])
                for w in header["workloads"]
            )
            plan = Plan(study, workloads, header["candidates"])
            records = {
                line["name"]: record_from_line(line) for line in rest if line["kind"] == "trial"
            }
            timings = [timing_from_line(line) for line in rest if line["kind"] == "timing"]
        except (KeyError, TypeError, ValidationError) as error:
            text = " ".join(str(error)[:MOST_SHOWN].split())
            raise RunError(f"{self.results}: damaged or of another version: {text}") from None
        self.plugins = tuple(plugins)
        return Kept(plan, header, self.plugins, tuple(records.values()), tuple(timings))

    def _check_unchanged(
        self, programs: Sequence[Program], header: dict[str, Any], rest: Sequence[dict[str, Any]]
    ) -> None:
        """Hold plug-ins to their hashes as the study began, or as they were accepted since, before
        any of them runs."""
        known = header.get("plugins_sha256")
        known = dict(known) if isinstance(known, dict) else {}
        known |= {one.get("plugin"): one.get("now") for one in rest if one.get("kind") == ACCEPTED}
        changed = [p for p in programs if known.get(p.name, p.sha256) != p.sha256]
        for one in changed if consent.accepts_changes() else ():
            record = {"plugin": one.name, "was": known[one.name], "now": one.sha256}
            self._append({"kind": ACCEPTED, **record})
        if changed and not consent.accepts_changes():
            texts = (
                f"{one.name} is not the program that {self.path} was begun with: its sha256 was "
                f"{str(known[one.name])[:64]}, is {one.sha256}"
                for one in changed
            )
            raise RunError(
                f"{'; '.join(texts)}; restore it, or if you changed it on purpose, add "
                "--accept-changes, which records that in the results"
            )

    def require_study(self) -> None:
        """Raise a RunError where no study was begun."""
        if not self.results.is_file():
            raise self._no_study()

    def _no_study(self) -> RunError:
        return RunError(
            f"{self.path}: no study is here; name a folder with results.jsonl (one that was "
            "stopped before its first line is begun again by the command that began it)"
        )

    def replay_command(self, trial: Trial) -> str:
        """The command that trains a trial again, alone."""
        words = ["bptool", "train", str(self._config(trial))]
        words += ["--out", str(self.path / "replays" / trial.name)]
        for plugin in self.plugins:
            words += ["--plugin", plugin]
        return shlex.join(words)

    def _config(self, trial: Trial) -> Path:
        return self.trials / f"{trial.name}.yaml"

    def _parse(self, number: int, text: bytes) -> dict[str, Any]:
        try:
            line = loads_strictly(text)
        except ValueError:
            line = None
        if not isinstance(line, dict):
            raise RunError(f"{self.results}:{number}: not a JSON object; the file is damaged")
        return line

    def _append(self, record: dict[str, Any]) -> None:
        with self._writing(), open(self.results, "ab") as file:
            file.write(encoded(_line(record)))
            file.flush()
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise RunError(
                f"cannot write the results in {self.path}: {reason}; choose another folder "
                "with --out"
            ) from None


NOTHING: dict[str, Any] = {
    "status": "failed",
    "error": "",
    "curve": [],
    "final_loss": None,
    "best_loss": None,
    "state_bytes": 0,
    "tokens_per_step": 0,
}
"""What a trial that came to nothing has in its line."""


def _line(record: dict[str, Any]) -> str:
    return json.dumps(finite(record), ensure_ascii=False, allow_nan=False) + "\n"


def _is_name(plugin: Any) -> bool:
    """Whether it can be the name of a file or a module."""
    return isinstance(plugin, str) and len(plugin) <= LONGEST_NAME
