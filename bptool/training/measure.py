"""Measuring a trained run on its validation split, or on another text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from bptool.config.data_section import DataConfig
from bptool.data.chat.dataset import pack_records, prepare_records
from bptool.data.chat.packing import Packed
from bptool.data.corpus import prepare
from bptool.data.whole import encode_all
from bptool.errors import DataError
from bptool.models.base import Array
from bptool.ops.cores import usable_cores
from bptool.registry import templates
from bptool.training.evaluation import (
    Evaluation,
    RandomBatchEstimate,
    evaluate_rows,
    evaluate_split,
    nanogpt_estimate,
)
from bptool.training.run_seal import read_manifest
from bptool.training.step import Shards
from bptool.training.trained import TrainedRun
from bptool.training.workers import WorkerTeam

ROWS_A_WORKER = 8
WORKER_BYTES = 256 * 2**20
"""Activations that a worker may take; one sequence always may."""
NANOGPT_BATCHES = 200
"""nanoGPT's ``eval_iters``."""


@dataclass(frozen=True)
class Measurement:
    """What a run scores on a text."""

    step: int
    weights: str
    """``raw`` or ``average``."""
    whole: Evaluation
    estimate: RandomBatchEstimate | None
    left_out: str = ""
    """How many records were left out and why, or nothing."""

    def to_json(self) -> dict[str, Any]:
        """As plain values; bits per byte is null where the text has no bytes of its own."""
        bits = self.whole.bits_per_byte
        values: dict[str, Any] = {
            "val_loss": self.whole.loss,
            "perplexity": self.whole.perplexity,
            "bits_per_byte": None if math.isnan(bits) else bits,
            "n_tokens": self.whole.n_tokens,
            "step": self.step,
            "weights": self.weights,
        }
        if self.left_out:
            values["left_out"] = self.left_out
        if self.estimate is not None:
            values |= {
                "nanogpt_estimate": self.estimate.loss,
                "nanogpt_standard_deviation": self.estimate.standard_deviation,
                "nanogpt_batches": self.estimate.n_batches,
                "nanogpt_batch_size": self.estimate.batch_size,
            }
        return values


def measure(
    run: TrainedRun, texts: list[str], estimator: bool = False, records: DataConfig | None = None
) -> Measurement:
    """Loss over the run's validation split, over the whole of ``texts``, or over the answers of the
    ``records``.

    Args:
        run: what to measure. texts: paths, or ``dataset:NAME``; none for the run's own split.
        estimator: draw nanoGPT's random-batch estimate too, in batches of the run's size.
        records: files of records, and how they are read, in place of texts.

    Raises:
        DataError: a text cannot be read, is too short, or is not the one of the run.
    """
    context = run.model.context
    objective = run.config.objective.name
    if texts and records:
        raise DataError("a run is measured on --text or on --data, not on both; name one")
    if not texts and not records and objective != "next-token":
        raise DataError(
            f"{run.folder.path} was trained by {objective}, which has no loss of the next token; "
            "name a text with --text, or records with --data"
        )
    rows, left_out = _other_records(run, records) if records else (_own_records(run, texts), "")
    tokens = np.zeros(0, np.int32)
    if rows is None:
        tokens = _other_text(run, texts) if texts else _own_split(run)
    elif estimator:
        raise DataError(f"{run.folder.path} was trained on records; name a text with --text")
    fitting = WORKER_BYTES // run.model.workspace_bytes(1, context, 4)
    rows_a_worker = max(1, min(ROWS_A_WORKER, fitting))
    with WorkerTeam(usable_cores()) as team:
        n_rows = rows_a_worker * team.n
        shards = Shards(
            *(run.model, team, run.engine, n_rows, context),
            with_gradients=False,
            documents=rows is not None,
        )
        bytes_per_token = run.tokenizer.token_bytes()
        if rows is not None:
            whole = evaluate_rows(shards, run.params, rows, bytes_per_token)
        else:
            whole = evaluate_split(shards, run.params, tokens, bytes_per_token)
        if not estimator:
            return Measurement(run.step, run.kind, whole, None, left_out)
        training = run.config.training
        size = training.batch_size if isinstance(training.batch_size, int) else n_rows
        estimate = nanogpt_estimate(
            shards, run.params, tokens, NANOGPT_BATCHES, size, training.seed
        )
    return Measurement(run.step, run.kind, whole, estimate)


def _other_text(run: TrainedRun, texts: list[str]) -> Array:
    config = run.config.data.model_copy(update={"text": texts})
    tokens = encode_all(config, run.tokenizer)
    if len(tokens) < 2:
        raise DataError(f"{texts[0]}: {len(tokens)} token(s), need at least 2; give a longer text")
    return tokens


def _other_records(run: TrainedRun, records: DataConfig) -> tuple[Packed, str]:
    """Records in rows, and how many were left out and why."""
    if run.chat_template is None:
        raise DataError(
            f"{run.folder.path} was not trained to answer and has no chat template; teach it "
            f"with `bptool finetune sft {run.folder.path}`, or name a text with --text"
        )
    template = templates.get(run.chat_template)()
    rows, report = pack_records(records, template, run.tokenizer, run.model.context)
    return rows, report.left_out()


def _own_records(run: TrainedRun, texts: list[str]) -> Packed | None:
    """The records that the run validates with; None where it was trained on a text, or is measured
    on one."""
    config = run.config
    if texts or config.data.records is None or config.chat is None:
        return None
    template = templates.get(config.chat.template)()
    records = prepare_records(config.data, template, run.tokenizer, run.model.context)
    _check_same(run, records.sha256)
    return records.validation


def _check_same(run: TrainedRun, sha256: str) -> None:
    saved = read_manifest(run.folder).get("data")
    if not isinstance(saved, dict) or sha256 != saved.get("text_sha256"):
        raise DataError(
            f"{', '.join(run.config.data.text)}: not the text that {run.folder.path} was trained "
            "on; restore it, or name a text with --text"
        )


def _own_split(run: TrainedRun) -> Array:
    """The validation split, in the tokens of the run's own tokenizer."""
    config, context = run.config.data, run.model.context
    corpus = prepare(config, context)
    _check_same(run, corpus.text_sha256)
    if corpus.tokenizer.to_json() != run.tokenizer.to_json():
        # another version of the tokenizer's library may learn other tokens
        corpus = prepare(config, context, tokenizer=run.tokenizer)
    return np.asarray(corpus.validation)
