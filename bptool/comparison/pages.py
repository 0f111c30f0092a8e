"""What a study leaves to be read: the report as a page, as tables and as JSON, and its plots."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bptool.comparison.analysis import Analysis
from bptool.comparison.html_report import write_report
from bptool.comparison.markdown_report import write_tables
from bptool.comparison.plan import Plan
from bptool.comparison.results import ResultsFolder
from bptool.comparison.widened import write_widened
from bptool.files import write_text
from bptool.training.drawing import starting_silently


def write_pages(
    folder: ResultsFolder,
    plan: Plan,
    about: Mapping[str, Any],
    analysis: Analysis,
    report: Mapping[str, Any],
) -> dict[str, str]:
    """Write all of them, and give their paths by what they are; none where no trial has ended.

    Args:
        about: what the study depends on besides its settings. report: the analysis as plain values.

    Raises:
        OSError: a file cannot be written.
    """
    with starting_silently():
        from bptool.comparison.plots import plot_all

    if not any(table.rows for table in analysis.tables):
        return {}
    title = f"Optimizers compared: {folder.path.name}"
    plots = plot_all(analysis, folder.path)
    write_report(folder.report, title, plan, about, analysis, plots)
    write_tables(folder.tables, title, plan, analysis)
    write_text(folder.plain, json.dumps(report, ensure_ascii=False, indent=1) + "\n")
    widened = write_widened(folder.path, plan, analysis)
    files = {"report": folder.report, "tables": folder.tables, "plots": folder.path / "*.png"}
    if widened is not None:
        files["widened"] = widened
    return {what: str(path) for what, path in files.items()}
