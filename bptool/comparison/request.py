"""A study that is asked for: checked before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bptool.errors import ConfigError

if TYPE_CHECKING:
    from bptool.comparison.ground import Ground
    from bptool.comparison.plan import Plan
    from bptool.comparison.records import Record, Timing
    from bptool.comparison.results import ResultsFolder


@dataclass(frozen=True)
class Flags:
    """The command's options; None or empty where they were not given."""

    optimizers: str | None = None
    ruleset: str | None = None
    trials: int | None = None
    steps: int | None = None
    target: float | None = None
    seeds: int | None = None
    rates: Sequence[str] = ()
    texts: Sequence[str] = ()
    sets: Sequence[str] = ()
    processes: int | None = None
    plugins: Sequence[str] = ()


@dataclass(frozen=True)
class Request:
    """A study to run, from its beginning or from where it stopped."""

    source: str
    plan: Plan
    ground: Ground
    folder: ResultsFolder
    records: tuple[Record, ...] = ()
    timings: tuple[Timing, ...] = ()
    resumed: bool = False
    changes: tuple[str, ...] = ()
    """What differs from when a study that goes on began."""
    passed_over: str = ""
    """The lock that a killed process left on it, in a line."""


def settle(sources: Sequence[Path], flags: Flags, out: Path | None) -> Request:
    """Read and check a new study; raises a UserError before anything is written."""
    from bptool.comparison.ground import survey, try_each
    from bptool.comparison.plan import make_plan
    from bptool.comparison.results import ResultsFolder
    from bptool.config.load import is_study, read_study
    from bptool.training.run_folder import free_name

    if not sources:
        raise ConfigError("name a STUDY.yaml or a CONFIG.yaml, or go on with --resume FOLDER")
    place = out or free_name(Path("runs") / "-".join(["compare", *(s.stem for s in sources)]))
    folder = ResultsFolder(place, _as_kept(flags.plugins))
    folder.require_free()
    texts = {"data": {"text": list(flags.texts)}} if flags.texts else None
    study = next((source for source in sources if is_study(source)), None)
    if study is not None:
        if len(sources) > 1:
            raise ConfigError(f"{study} is a study, which names its own workloads; give it alone")
        if flags.target is not None:
            raise ConfigError(f"--target is for a CONFIG.yaml; {study} has target: for that")
        file = read_study(study, flags.sets, _overrides(flags, None))
        sets: Sequence[str] = ()
    else:
        if flags.target is not None and len(sources) > 1:
            raise ConfigError("--target is one workload's loss; write a STUDY.yaml for several")
        file = read_study(None, (), _of_workloads(sources, flags, texts))
        sets = flags.sets
    make_plan(file.config, ())  # what can be refused without a text
    ground = survey(file, sets, texts)
    plan = make_plan(file.config, ground.workloads)
    try_each(plan, ground)
    return Request(" ".join(map(str, sources)), plan, ground, folder)


def settle_again(path: Path, sources: Sequence[Path], flags: Flags, out: Path | None) -> Request:
    """Read a study that was stopped, and hold its folder; that says all, so that nothing else may
    be given but the plug-ins that it needs."""
    from bptool.comparison.ground import survey_again
    from bptool.comparison.results import ResultsFolder

    given = dataclasses.replace(flags, processes=None, plugins=()) != Flags(
        rates=[], texts=[], sets=[], plugins=()
    )
    if sources or out is not None or given:
        raise ConfigError(
            f"--resume {path} goes on with the study as it began; only --plugin, "
            "--processes, --mpi, --quiet and --json may be given beside it"
        )
    folder = ResultsFolder(path, _as_kept(flags.plugins))
    folder.require_study()
    passed_over = folder.hold()  # before it is read: reading cuts off a torn line
    try:
        kept = folder.read()
        plan = kept.plan
        if flags.processes is not None:
            study = plan.study.model_copy(update={"processes": flags.processes})
            plan = dataclasses.replace(plan, study=study)
        ground, changes = survey_again(plan, kept.about)
    except BaseException:
        folder.release()
        raise
    return Request(
        *(str(path), plan, ground, folder, kept.records, kept.timings, True),
        *(tuple(changes), passed_over),
    )


def _as_kept(plugins: Sequence[str]) -> list[str]:
    """Plug-ins as a study's folder names them: files by where they are."""
    return [str(Path(p).resolve()) if p.endswith(".py") else p for p in plugins]


def _of_workloads(
    sources: Sequence[Path], flags: Flags, texts: dict[str, Any] | None
) -> dict[str, Any]:
    """A study of one configuration or more; the seeds of the first are the first final ones."""
    from bptool.comparison.settings import DEFAULT_OPTIMIZERS
    from bptool.config.load import resolve

    training = resolve(sources[0], flags.sets, texts).config.training
    study = _overrides(flags, ",".join(DEFAULT_OPTIMIZERS))
    seeds = {"first_seed": training.seed, "first_data_seed": training.data_seed}
    study["final"] = {**study.get("final", {}), **seeds}
    if study.get("ruleset") == "tuned":
        after = max(seeds.values()) + 1000
        study["tuning"] = {**study.get("tuning", {}), "first_seed": after}
    workload = {} if flags.target is None else {"target": flags.target}
    return {**study, "workloads": [{"config": str(source), **workload} for source in sources]}


def _overrides(flags: Flags, optimizers: str | None) -> dict[str, Any]:
    """What the flags say, in the shape of a study."""
    from bptool.comparison.settings import parse_names, parse_rates

    found: dict[str, Any] = {}
    names = flags.optimizers or optimizers
    if names is not None:
        found["optimizers"] = parse_names(names)
    if flags.rates:
        rates = parse_rates(flags.rates, found.get("optimizers", []))
        found["settings"] = {name: {"learning_rate": rate} for name, rate in rates.items()}
    for key in ("ruleset", "steps", "processes"):
        if getattr(flags, key) is not None:
            found[key] = getattr(flags, key)
    if flags.trials is not None:
        found["tuning"] = {"trials": flags.trials}
    if flags.seeds is not None:
        found["final"] = {"seeds": flags.seeds}
    return found
