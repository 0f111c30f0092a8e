"""How well a reward run agrees with judgements that it has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from bptool.data.preference_set import pack_documents
from bptool.feedback.win_rate import wilson
from bptool.files import write_bytes
from bptool.models.base import Array
from bptool.objectives.base import accuracy
from bptool.ops.cores import usable_cores
from bptool.training.answers_now import rows_of
from bptool.training.calibration import Bin, calibration_error, reliability
from bptool.training.drawing import new_figure
from bptool.training.fine_tuning import read_units
from bptool.training.scorer import ROWS
from bptool.training.token_shards import TokenShards
from bptool.training.trained import open_run
from bptool.training.workers import WorkerTeam

PLOT = "calibration.png"


@dataclass(frozen=True)
class Reliability:
    """Agreement with held-out judgements.

    Attributes:
        n: pairs. accuracy: share where the chosen answer scores higher, ties half, and its 95 %
            interval. error: expected calibration error. bins: pairs by how sure the model is.
    """

    n: int
    accuracy: float
    interval: tuple[float, float]
    error: float
    bins: tuple[Bin, ...]


def judge_reward_run(path: Path) -> Reliability:
    """Score the validation pairs of a reward run by its best checkpoint.

    Raises:
        UserError: the run or its judgements are missing or damaged.
    """
    run = open_run(path)
    context = run.model.context
    units = read_units(run.config, run.tokenizer, context)
    with WorkerTeam(usable_cores()) as team:
        shards = TokenShards(
            *(run.model, team, run.engine, ROWS * team.n, context),
            with_gradients=False,
            documents=True,
        )
        documents = [document for unit in units.validation for document in unit[:2]]
        packed = pack_documents(documents, context, scored=True)
        outputs = shards.outputs(run.params, rows_of(packed), of_logp=False)
    margins: Array = outputs.scores[packed.last].astype(np.float64).reshape(-1, 2) @ [1.0, -1.0]
    share = accuracy(margins)
    return Reliability(
        n=len(margins),
        accuracy=share,
        interval=wilson(share, len(margins)),
        error=calibration_error(margins),
        bins=tuple(reliability(margins)),
    )


def draw(found: Reliability, path: Path) -> None:
    """Plot agreement against confidence; raises OSError where the file cannot be written."""
    figure = new_figure(figsize=(5, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0.5, 1], [0.5, 1], color="#555555", linewidth=0.8, label="as sure as right")
    bins = [b for b in found.bins if b.n]
    sizes = [10 + 200 * b.n / found.n for b in bins]
    xs, ys = [b.confidence for b in bins], [b.accuracy for b in bins]
    axes.scatter(xs, ys, s=sizes, color="#1f4e8c", alpha=0.8, label="held-out pairs, by number")
    axes.set_xlim(0.49, 1.01)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("probability given to the preferred answer")
    axes.set_ylabel("share of pairs where it was chosen")
    axes.set_title(f"{found.n} pairs, calibration error {found.error:.3f}", fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    data = BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    write_bytes(path, data.getvalue())
