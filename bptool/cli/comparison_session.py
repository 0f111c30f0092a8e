"""What ``bptool compare-optimizers`` does: settle the study, run it under signals, report."""

from __future__ import annotations

import dataclasses
import json as json_module
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bptool.cli.failures import Stopped, say
from bptool.errors import UserError

if TYPE_CHECKING:
    from bptool.comparison.ranking import Row
    from bptool.comparison.results import ResultsFolder
    from bptool.comparison.trial import Outcome, Trial


@dataclass(frozen=True)
class Request:
    """A study to run."""

    source: Path
    trials: tuple[Trial, ...]
    scaled: dict[str, tuple[int, int]]
    folder: ResultsFolder


def request(
    source: Path,
    optimizers: str,
    steps: int | None,
    n_seeds: int,
    *,
    rates: Sequence[str] = (),
    texts: Sequence[str] = (),
    sets: Sequence[str] = (),
    out: Path | None = None,
    plugins: Sequence[str] = (),
) -> Request:
    """Check everything that can be checked before the text is read."""
    from bptool.comparison.budget import resolve_at
    from bptool.comparison.results import ResultsFolder
    from bptool.comparison.settings import parse_names, parse_rates
    from bptool.comparison.study import plan
    from bptool.plugins import load_plugin
    from bptool.training.run_folder import free_name

    for plugin in plugins:
        load_plugin(plugin)
    names = parse_names(optimizers)
    chosen = parse_rates(rates, names)
    overrides = {"data": {"text": list(texts)}} if texts else None
    budgeted = resolve_at(source, list(sets), overrides, steps)
    trials = plan(budgeted.config, names, n_seeds, chosen)
    place = out or free_name(Path("runs") / f"compare-{source.stem}")
    kept = [str(Path(p).resolve()) if p.endswith(".py") else p for p in plugins]
    folder = ResultsFolder(place, kept)
    folder.require_free()
    return Request(source, trials, budgeted.scaled, folder)


def compare(wanted: Request, quiet: bool, json: bool) -> None:
    """Run the study; raises Stopped where the user stopped it before its last trial."""
    if quiet and json:
        raise UserError("--quiet and --json exclude each other; choose one")
    from rich.console import Console

    from bptool.cli.comparison_display import listener_for
    from bptool.cli.comparison_report import print_opening, print_report
    from bptool.cli.signals import stopping
    from bptool.comparison.events import Event, TrialFinished
    from bptool.comparison.ranking import rank
    from bptool.comparison.study import Study

    console = Console()
    study = Study(wanted.trials)
    wanted.folder.create(study.trials, study.about)
    listener = listener_for(console, silent=quiet or json)

    def record(event: Event) -> None:
        if isinstance(event, TrialFinished):
            wanted.folder.add(event.outcome)

    if not (quiet or json):
        print_opening(console, study.started, wanted.source, wanted.scaled)
    with listener, stopping(study.request_stop):
        outcomes = study.run([record, listener])
    interrupted = len(outcomes) < len(study.trials)
    rows = rank(outcomes)
    files = {"results": str(wanted.folder.results)}
    if rows and _draw(wanted, rows, outcomes):
        files["plot"] = str(wanted.folder.plot)
    if json:
        _print_json(wanted, rows, outcomes, interrupted, files)
    else:
        print_report(console, study.trials, rows, outcomes, wanted.folder, files, quiet)
    if interrupted:
        done = f"{len(outcomes)} of {len(study.trials)} trials are done"
        sys.stderr.write(f"stopped: {done}; they are kept in {wanted.folder.path}\n")
        raise Stopped


def _draw(wanted: Request, rows: list[Row], outcomes: list[Outcome]) -> bool:
    """Draw the curves; a plot that fails must not cost the study."""
    from bptool.comparison.plot import plot_losses

    steps = wanted.trials[0].config.training.steps
    title = f"{wanted.source.name}: validation loss over {steps:,} steps, by optimizer"
    try:
        plot_losses(rows, outcomes, wanted.folder.plot, title)
    except OSError as error:
        say(f"could not draw {wanted.folder.plot}: {error}", kind="warning")
        return False
    return True


def _print_json(
    wanted: Request,
    rows: list[Row],
    outcomes: list[Outcome],
    interrupted: bool,
    files: dict[str, str],
) -> None:
    from bptool.comparison.results import finite

    training = wanted.trials[0].config.training
    report: dict[str, Any] = {
        "steps": training.steps,
        "seeds": sorted({trial.seed for trial in wanted.trials}),
        "n_trials": len(wanted.trials),
        "n_done": len(outcomes),
        "interrupted": interrupted,
        "optimizers": [dataclasses.asdict(row) for row in rows],
        "files": files,
    }
    sys.stdout.write(json_module.dumps(finite(report), ensure_ascii=False) + "\n")
