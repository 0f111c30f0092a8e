"""``report.json``: the analysis of a study as one plain object, which ``--json`` prints too."""

from __future__ import annotations

import dataclasses
from typing import Any

from bptool.comparison.analysis import Analysis, Row
from bptool.comparison.plan import Plan
from bptool.comparison.records import finite

FORMAT_VERSION = 1


def plain(plan: Plan, analysis: Analysis, n_done: int) -> dict[str, Any]:
    """The analysis as values that JSON has; null stands for NaN and infinity.

    Args:
        n_done: trials that have ended.
    """
    study = plan.study
    found: dict[str, Any] = finite(
        {
            "format_version": FORMAT_VERSION,
            "ruleset": study.ruleset,
            "reference": study.reference,
            "n_trials": plan.n_trials,
            "n_done": n_done,
            "workloads": [
                {
                    "workload": table.workload,
                    "target": table.target,
                    "margin": table.margin,
                    "bigram_loss": table.bigram_loss,
                    "notes": table.notes,
                    "optimizers": [_row(row) for row in table.rows],
                }
                for table in analysis.tables
            ],
            "profiles": [dataclasses.asdict(profile) for profile in analysis.profiles],
        }
    )
    return found


def _row(row: Row) -> dict[str, Any]:
    """A row without its runs, which ``results.jsonl`` has."""
    tuning = row.tuning
    values = dataclasses.asdict(dataclasses.replace(row, runs=(), tuning=None))
    del values["runs"]
    values["seeds"] = [run.seed for run in row.runs]
    values["final_losses"] = [run.final_loss for run in row.runs]
    if tuning is not None:
        rest = dataclasses.asdict(dataclasses.replace(tuning, edges={}))
        edges = {key: wider.model_dump() for key, wider in tuning.edges.items()}
        values["tuning"] = {**rest, "edges": edges}
    return values
