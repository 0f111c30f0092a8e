"""What ``bptool eval`` measures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from bptool.data.corpus import encode_documents, prepare
from bptool.data.text import read_texts
from bptool.errors import DataError
from bptool.training.evaluation import evaluate_split, nanogpt_estimate
from bptool.training.run_folder import read_json
from bptool.training.setup import context_of
from bptool.training.step import Shards
from bptool.training.trained import TrainedRun, open_run
from bptool.training.workers import WorkerTeam
from bptool.training.machine import usable_cores

ROWS_A_WORKER = 8
NANOGPT_BATCHES = 200


def evaluate_run(path: Path, texts: list[str], estimator: bool, last: bool) -> dict[str, Any]:
    """Loss over the run's validation split, or over the whole of ``texts``."""
    run = open_run(path, last)
    tokens = _tokens(run, texts)
    with WorkerTeam(usable_cores()) as team:
        rows = ROWS_A_WORKER * team.n
        shards = Shards(
            run.model, team, run.engine, rows, context_of(run.config), with_gradients=False
        )
        found = evaluate_split(shards, run.params, tokens, run.tokenizer.token_bytes())
        result: dict[str, Any] = {
            "val_loss": found.loss,
            "perplexity": found.perplexity,
            "bits_per_byte": None if math.isnan(found.bits_per_byte) else found.bits_per_byte,
            "n_tokens": found.n_tokens,
            "step": run.step,
        }
        if estimator:
            size = run.config.training.batch_size
            batch_size = size if isinstance(size, int) else rows
            estimate = nanogpt_estimate(
                shards, run.params, tokens, NANOGPT_BATCHES, batch_size, run.config.training.seed
            )
            result |= {
                "nanogpt_estimate": estimate.loss,
                "nanogpt_standard_deviation": estimate.standard_deviation,
                "nanogpt_batches": estimate.n_batches,
                "nanogpt_batch_size": estimate.batch_size,
            }
    return result


def _tokens(run: TrainedRun, texts: list[str]) -> np.ndarray[Any, Any]:
    if texts:
        split = run.config.data.split
        documents = read_texts(texts)
        if split.by == "document":
            documents = [part for text in documents for part in text.split(split.separator) if part]
        slices = encode_documents(
            documents, split.separator, split.by == "document", run.tokenizer, lambda *_: None
        , "text")
        tokens = np.concatenate([np.zeros(0, np.int32), *slices])
        if len(tokens) < 2:
            raise DataError(f"{texts[0]} holds {len(tokens)} tokens; give a longer text")
        return tokens
    corpus = prepare(run.config.data, context_of(run.config))
    saved = read_json(run.folder.manifest, "manifest")
    if corpus.text_sha256 != saved.get("data", {}).get("text_sha256"):
        raise DataError(
            f"{run.config.data.text[0]} is not the text that {run.folder.path} was trained on; "
            "restore it, or name a text with --text"
        )
    return corpus.validation
