"""``widened.yaml``: the same study over wider search spaces, where the best settings lay at the
edge of theirs. It is ready to run; nothing of the study that offers it changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bptool.comparison.analysis import Analysis
from bptool.comparison.plan import Plan
from bptool.comparison.spaces import joined
from bptool.config.dump import dump, to_yaml
from bptool.config.study_section import RangeConfig, Space
from bptool.files import write_text

NAME = "widened.yaml"
CONFIGS = "workloads"
HEAD = """\
# Written by bptool compare-optimizers: its study again, with wider search spaces for optimizers
# whose best setting lay at the edge.
"""


def write_widened(folder: Path, plan: Plan, analysis: Analysis) -> Path | None:
    """Write the study with wider spaces into ``folder``; None, and no file, where no best setting
    lies at an edge.

    Raises:
        OSError: a file cannot be written.
    """
    spaces = widened_spaces(plan, analysis)
    path = folder / NAME
    if not spaces:
        path.unlink(missing_ok=True)
        return None
    (folder / CONFIGS).mkdir(exist_ok=True)
    workloads: list[dict[str, Any]] = []
    for workload in plan.workloads:
        file = f"{CONFIGS}/{workload.name}.yaml"
        write_text(folder / file, to_yaml(workload.config))
        target = {} if workload.target is None else {"target": workload.target}
        workloads.append({"name": workload.name, "config": file, **target})
    study = plan.study.model_dump(mode="json", exclude_unset=True)
    study |= {"workloads": workloads, "spaces": {**study.get("spaces", {}), **_plain(spaces)}}
    write_text(path, HEAD + dump(study))
    return path


def widened_spaces(plan: Plan, analysis: Analysis) -> dict[str, Space]:
    """Whole spaces of the optimizers that have an edge on any workload, widened by all of them."""
    found: dict[str, Space] = {}
    rows = [row for table in analysis.tables for row in table.rows]
    for row in rows:
        edges = row.tuning.edges if row.tuning is not None else {}
        for key, wider in edges.items():
            space = found.setdefault(row.optimizer, dict(plan.space(row.optimizer)))
            old = space[key]
            assert isinstance(old, RangeConfig)
            space[key] = joined(old, wider)
    return found


def _plain(spaces: dict[str, Space]) -> dict[str, Any]:
    def plain(where: RangeConfig | Sequence[Any]) -> Any:
        return where.model_dump() if isinstance(where, RangeConfig) else list(where)

    return {name: {key: plain(w) for key, w in space.items()} for name, space in spaces.items()}
