"""How well a run that learnt from pairs agrees with judgements that it has not seen, and how well
what needs no training does on the same pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from bptool.data.preference_set import PreferenceSet, Unit, pack_documents
from bptool.errors import RunError, UserError
from bptool.feedback.win_rate import wilson
from bptool.files import write_bytes
from bptool.models.base import Array
from bptool.objectives.answers import Answers, answer_sums
from bptool.objectives.base import accuracy
from bptool.ops.cores import usable_cores
from bptool.training.answers_now import rows_of
from bptool.training.baselines import Share, baselines, margins_of
from bptool.training.calibration import Bin, calibration_error, reliability
from bptool.training.drawing import new_figure
from bptool.training.fine_tuning import read_units
from bptool.training.run_seal import read_manifest
from bptool.training.scorer import ROWS
from bptool.training.start import open_start
from bptool.training.token_shards import TokenShards
from bptool.training.trained import TrainedRun, open_run
from bptool.training.workers import WorkerTeam

PLOT = "calibration.png"
JUDGED = ("reward", "dpo", "ipo")
"""Objectives that learn from pairs."""
UNITS_AT_ONCE = 256


@dataclass(frozen=True)
class Reliability:
    """Agreement with held-out judgements.

    Attributes:
        n: pairs. accuracy: share where the chosen answer scores higher, ties half, and its 95 %
            interval. error: expected calibration error. bins: pairs by how sure the model is.
        step: of the checkpoint. chosen_on_them: whether it was chosen on these very pairs.
        baselines: what needs no training, on the same pairs.
    """

    n: int
    accuracy: float
    interval: tuple[float, float]
    error: float
    bins: tuple[Bin, ...]
    step: int
    chosen_on_them: bool
    baselines: tuple[Share, ...]

    @property
    def is_guessing(self) -> bool:
        """Whether the interval contains what guessing gives."""
        return self.interval[0] <= 0.5 <= self.interval[1]


def judge_pairs_run(path: Path) -> Reliability:
    """Judge the best checkpoint of a run of dpo, ipo or reward on pairs that were held out.

    Raises:
        UserError: the run, its judgements, or (but for reward) the run that it started from is
            missing or damaged.
    """
    run = open_run(path)
    units = read_units(run.config, run.tokenizer, run.model.context)
    judged = units.test or units.validation
    of_scores = run.config.objective.name == "reward"
    with WorkerTeam(usable_cores()) as team:
        shards = TokenShards(
            *(run.model, team, run.engine, ROWS * team.n, run.model.context),
            with_gradients=False,
            documents=True,
        )
        before = _sums_before(run, shards, judged, needed=not of_scores)
        if of_scores:
            margins = _of_scores(run, shards, judged)
        else:
            assert before is not None
            beta = float(run.config.objective.config.beta)
            margins = beta * margins_of(_sums(shards, run.params, judged) - before)
    return judgement(margins, judged, units, run.step, before)


def judgement(
    margins: Array, judged: Sequence[Unit], units: PreferenceSet, step: int, before: Array | None
) -> Reliability:
    """What margins of the chosen answers over the rejected ones say; ``before``: log-probabilities
    that the model before training gave to the answers."""
    share = accuracy(margins)
    return Reliability(
        n=len(margins),
        accuracy=share,
        interval=wilson(share, len(margins)),
        error=calibration_error(margins),
        bins=tuple(reliability(margins)),
        step=step,
        chosen_on_them=not units.test,
        baselines=tuple(baselines(judged, units.rendering, before)),
    )


def _sums_before(
    run: TrainedRun, shards: TokenShards, judged: Sequence[Unit], needed: bool
) -> Array | None:
    """Log-probability of each answer before training, (2 * pairs,); None where it is not needed and
    the run that was started from is gone."""
    try:
        start = open_start(run.config)
        manifest = read_manifest(run.folder)
        if start.origin["weights_sha256"] != manifest["start"]["weights_sha256"]:
            raise RunError(f"{start.origin['run']} has been trained on since")
    except UserError:
        if needed:
            raise
        return None
    assert start.weights is not None
    return _sums(shards, run.model.params(start.weights), judged)


def _sums(shards: TokenShards, params: object, judged: Sequence[Unit]) -> Array:
    found = []
    for first in range(0, len(judged), UNITS_AT_ONCE):
        units = judged[first : first + UNITS_AT_ONCE]
        packed = pack_documents([d for u in units for d in u[:2]], shards.n_time, scored=False)
        logp = shards.outputs(params, rows_of(packed)).logp
        none = np.zeros(len(packed.last))
        found.append(answer_sums(Answers(packed.owner, none, none.astype(np.int8)), logp))
    return np.concatenate(found)


def _of_scores(run: TrainedRun, shards: TokenShards, judged: Sequence[Unit]) -> Array:
    documents = [document for unit in judged for document in unit[:2]]
    packed = pack_documents(documents, run.model.context, scored=True)
    outputs = shards.outputs(run.params, rows_of(packed), of_logp=False)
    return margins_of(outputs.scores[packed.last].astype(np.float64))


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
