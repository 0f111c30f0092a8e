"""Everything of bptool's that reads a file somebody else may have made, with valid files for it."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.reliability.mutations import dump
from bptool.comparison.results import ResultsFolder
from bptool.config.dump import to_yaml
from bptool.config.load import read_study, resolve
from bptool.config.schema import RunConfig
from bptool.data.chat.records import read_records
from bptool.data.decoding import Reading
from bptool.data.preferences import read_preferences
from bptool.data.record_report import RecordReport
from bptool.data.sources import read_sources
from bptool.data.token_writer import TRAIN, VALIDATION, TokenWriter
from bptool.data.tokenfile import open_token_file
from bptool.data.tokenizers import Tokenizer, load_tokenizer
from bptool.errors import BptoolWarning, UserError
from bptool.feedback.agreement import agreement
from bptool.feedback.prompts import read_prompts
from bptool.feedback.store import Store, decided
from bptool.models.base import FlatLayout
from bptool.training.checkpoint import STATE, WEIGHTS, CheckpointStore, load_state, write_folder
from bptool.training.manifest import differences
from bptool.training.metrics import read_metrics
from bptool.training.metrics import rewind as rewind_metrics
from bptool.training.parts import build_adapted, build_model
from bptool.training.progress import Progress
from bptool.training.run_difference import compare_runs
from bptool.training.run_folder import RunFolder
from bptool.training.samples import rewind as rewind_samples
from bptool.training.seal import read_sealed, write_sealed
from bptool.training.tensor_file import read_tensors, sha256_of, write_tensors
from bptool.training.trained import open_run

OLD_RUN = Path(__file__).resolve().parents[2] / "tests" / "old_formats" / "run-1"
CHAR = {
    **{"format_version": 1, "tokenizer": "char", "special_tokens": [], "characters": " abc"},
    "unknown": "error",
}
BYTE = {"format_version": 1, "tokenizer": "byte", "special_tokens": ["<|end|>"]}
BPE = {**BYTE, "tokenizer": "bpe", "merges": [[97, 98], [256, 99]]}
CONFIG: dict[str, Any] = {
    "model": {"name": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 4, "context": 4},
    "data": {"text": ["a.txt"]},
    "training": {"steps": 5, "batch_size": 2, "spikes": {"then": "skip"}, "engine": "tiled"},
    "optimizer": {"name": "adamw", "learning_rate": 0.1},
    "lora": {"rank": 2},
    "start": {"run": "before"},
}
CHAT = [
    {"prompt": "a", "completion": "b"},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    {"instruction": "a", "input": "", "output": "b"},
    {"text": "some text"},
]
PREFERENCES = [
    {"prompt": "a", "chosen": "b", "rejected": "c"},
    {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
    {"prompt": "a", "completion": "b", "label": True},
    {"prompt": [{"role": "user", "content": "a"}], "chosen": "b", "rejected": "c"},
    {"prompt": "a", "chosen": None, "rejected": None, "choice": "tie"},
]
READINGS = (
    Reading(),
    Reading(encoding="detect", errors="replace"),
    Reading(errors="skip"),
    Reading(encoding="utf-16", field="text"),
    Reading(encoding="latin-1"),
)
STUDY = {
    "workloads": [{"config": "a.yaml", "name": "a", "target": 2.0}],
    "optimizers": ["adamw", "sgd"],
    "ruleset": "tuned",
    "final": {"seeds": 3},
}


@dataclasses.dataclass(frozen=True)
class Target:
    """Something that reads files.

    Attributes:
        seeds: names and contents of valid files. read: takes the path of a file with such a name.
    """

    seeds: list[tuple[str, bytes]]
    read: Callable[[Path], object]


def targets(folder: Path) -> dict[str, Target]:
    """All targets; ``folder`` is for what they need."""
    return {
        "config": Target(
            [("c.json", dump(CONFIG)), ("c.yaml", _yaml(CONFIG))],
            lambda path: to_yaml(resolve(path).config),
        ),
        "tokenizer": Target(
            [("char.json", dump(CHAR)), ("byte.json", dump(BYTE)), ("bpe.json", dump(BPE))],
            _tokenizer_round_trip,
        ),
        "checkpoint": _checkpoint(folder / "checkpoint"),
        "run": _run(folder / "runs"),
        "manifest": _manifest(folder / "manifests"),
        "adapters": _adapters(folder / "adapters"),
        "tokens": _tokens(folder),
        "records": Target(
            _records("chat", CHAT), lambda path: read_records([path], RecordReport())
        ),
        "preferences": Target(
            _records("pairs", PREFERENCES), lambda path: read_preferences([path], RecordReport())
        ),
        "judgements": Target([("answers.jsonl", _judgements())], _read_judgements),
        "prompts": Target(
            [*_records("prompts", CHAT[:2]), ("prompts.txt", b"one\ntwo \xc3\xa9\n")],
            lambda path: read_prompts([path], True),
        ),
        "text": _text(folder),
        "sources": Target(_sources(), _read_sources),
        "study": Target([("s.yaml", _yaml(STUDY)), ("s.json", dump(STUDY))], read_study),
        "results": _results(folder / "studies"),
    }


def _yaml(value: Any) -> bytes:
    return yaml.safe_dump(value).encode()


def _lines(values: list[Any]) -> bytes:
    return "".join(json.dumps(value) + "\n" for value in values).encode()


def _records(stem: str, values: list[Any]) -> list[tuple[str, bytes]]:
    lines = _lines(values)
    return [
        (f"{stem}.jsonl", lines),
        (f"{stem}.json", dump(values)),
        (f"{stem}.jsonl.gz", gzip.compress(lines)),
    ]


def _tokenizer_round_trip(path: Path) -> None:
    tokenizer = load_tokenizer(path)
    tokenizer.token_bytes()
    _round_trip(tokenizer, "abc")


def _round_trip(tokenizer: Tokenizer, text: str) -> None:
    tokenizer.decode(tokenizer.encode(text))


def _checkpoint(place: Path) -> Target:
    """A state, plain or sealed by someone who knows how, and a file of tensors with its hash."""
    place.mkdir()
    into = {"w": np.zeros(6, np.float32), "b": np.zeros(2)}
    write_tensors(place / WEIGHTS, {"w": np.arange(6, dtype=np.float32), "b": np.ones(2)})
    state = {"format_version": 1, "step": 3, "sha256": {}, "lesson": {}}
    state |= dataclasses.asdict(Progress(step=3))

    def read(path: Path) -> None:
        if path.suffix == ".safetensors":
            read_tensors(path, into, sha256_of(path))
            return
        shutil.copyfile(path, place / STATE)
        _all(lambda: Progress.from_state(load_state(place), place), lambda: _sealed(place))

    return Target([("state.json", dump(state)), (WEIGHTS, (place / WEIGHTS).read_bytes())], read)


def _sealed(place: Path) -> None:
    try:
        value = json.loads((place / STATE).read_bytes())
        if not isinstance(value, dict):
            return
        write_sealed(place / STATE, {k: v for k, v in value.items() if k != "seal"})
    except (ValueError, RecursionError):  # nothing that can be written
        return
    Progress.from_state(load_state(place), place)


class _Copy:
    """A copy of a run, of which one file at a time is another."""

    def __init__(self, whole: Path, copy: Path, names: list[str]) -> None:
        shutil.copytree(whole, copy)
        self.path, self.places = copy, {Path(name).name: name for name in names}
        self.seeds = [(Path(name).name, (whole / name).read_bytes()) for name in names]

    def put(self, path: Path) -> None:
        """Put a file in its place, all others as they were."""
        for name, data in self.seeds:
            (self.path / self.places[name]).write_bytes(data)
        shutil.copyfile(path, self.path / self.places[path.name])


def _run(place: Path) -> Target:
    names = ["config.yaml", "tokenizer.json", "metrics.jsonl", "samples.txt"]
    names += ["checkpoints/index.json", f"checkpoints/step-00000006/{STATE}"]
    names += [f"checkpoints/step-00000006/{WEIGHTS}"]
    copy = _Copy(OLD_RUN, place / "copy", names)

    def read(path: Path) -> None:
        copy.put(path)
        _all(
            lambda: open_run(copy.path, last=True),
            lambda: compare_runs(OLD_RUN, copy.path),
            lambda: read_metrics(copy.path / "metrics.jsonl"),
            lambda: rewind_metrics(copy.path / "metrics.jsonl", 3),
            lambda: rewind_samples(copy.path / "samples.txt", 5),
        )

    return Target(copy.seeds, read)


def _manifest(place: Path) -> Target:
    copy = _Copy(OLD_RUN, place / "copy", ["manifest.json"])
    whole = json.loads((OLD_RUN / "manifest.json").read_bytes())

    def read(path: Path) -> None:
        copy.put(path)
        _all(
            lambda: list(differences(read_sealed(path, "manifest"), whole)),
            lambda: open_run(copy.path),
            lambda: compare_runs(OLD_RUN, copy.path),
        )

    return Target(copy.seeds, read)


def _adapters(place: Path) -> Target:
    """A run with LoRA adapters; a changed file of tensors gets the hash that fits it."""
    whole = RunFolder(place / "whole")
    whole.checkpoints.mkdir(parents=True)
    config = resolve(None, (), CONFIG).config
    tokenizer = load_tokenizer(_written(place / "char.json", CHAR))
    model = build_model(config, tokenizer.vocab_size)
    base = model.layout.allocate(np.float32)
    adapted = build_adapted(config, model, base)
    assert adapted is not None
    _keep_run(whole, config, tokenizer)
    write_folder(whole.base, {WEIGHTS: model.layout.named(base)}, {"step": 0})
    weights = adapted.layout.named(adapted.layout.allocate(np.float32))
    state = {**dataclasses.asdict(Progress(step=3)), "lesson": {}}
    name = CheckpointStore(whole.checkpoints).save(weights, {}, state)
    layouts: dict[str, tuple[str, FlatLayout]] = {
        "adapters.safetensors": (f"checkpoints/{name}", adapted.layout),
        "base.safetensors": ("base", model.layout),
    }
    copy = _Copy(whole.path, place / "copy", ["config.yaml", "tokenizer.json"])
    files = {key: whole.path / at / WEIGHTS for key, (at, _) in layouts.items()}

    def read(path: Path) -> None:
        if path.name not in layouts:
            copy.put(path)
            _all(lambda: open_run(copy.path))
            return
        at = copy.path / layouts[path.name][0]
        kept = {name: (at / name).read_bytes() for name in (WEIGHTS, STATE)}
        shutil.copyfile(path, at / WEIGHTS)
        old = json.loads(kept[STATE])
        hashes = old["sha256"] | {WEIGHTS: sha256_of(path)}
        write_sealed(at / STATE, {**old, "sha256": hashes})
        try:
            _all(lambda: open_run(copy.path))
        finally:
            for name, data in kept.items():
                (at / name).write_bytes(data)

    seeds = [*copy.seeds, *((key, file.read_bytes()) for key, file in files.items())]
    return Target(seeds, read)


def _keep_run(folder: RunFolder, config: RunConfig, tokenizer: Tokenizer) -> None:
    folder.config.write_text(to_yaml(config), encoding="utf-8")
    tokenizer.save(folder.tokenizer)
    _written(folder.manifest, {"format_version": 1, "engine": "tiled"})


def _written(path: Path, value: Any) -> Path:
    path.write_bytes(dump(value))
    return path


def _tokens(folder: Path) -> Target:
    ids = np.arange(40, dtype=np.int32)
    with TokenWriter(folder / "seed.tokens", "key") as writer:
        writer.begin(BYTE, 300)
        writer.add(TRAIN, ids, len(ids))
        writer.add(VALIDATION, ids[:5], 5)
        writer.finish()

    def read(path: Path) -> None:
        file = open_token_file(path, "key")
        int(file.train.sum()), int(file.validation.sum())

    return Target([("t.tokens", (folder / "seed.tokens").read_bytes())], read)


def _judgements() -> bytes:
    about: dict[str, Any] = {"reviewer": "me", "seed": 1, "source": {"run": "a"}}
    return _lines(
        [
            decided("a", "b", "c", choice, edited="d", number=number, **about).to_json()
            for number, choice in enumerate(("left", "right", "tie", "skip", "edit"))  # type: ignore[misc]
        ]
    )


def _read_judgements(path: Path) -> None:
    _all(
        lambda: agreement(Store(path).judgements),
        lambda: Store(path).answered("me"),
        lambda: Store(path).undo("me"),
        lambda: read_preferences([path], RecordReport()),
    )


def _text(folder: Path) -> Target:
    """Any text through every tokenizer."""
    made = {
        name: load_tokenizer(_written(folder / f"{name}-tokenizer.json", value))
        for name, value in (("char", CHAR), ("byte", BYTE), ("bpe", BPE))
    }

    def read(path: Path) -> None:
        text = path.read_bytes().decode("utf-8", errors="surrogateescape")
        _all(*(functools.partial(_round_trip, tokenizer, text) for tokenizer in made.values()))

    texts = [b"abc cab", "é ÿ \U0001f600 \u202e\r\n\t".encode(), b"<|end|> a", b"a" * 5000]
    return Target([("t.txt", text) for text in texts], read)


def _sources() -> list[tuple[str, bytes]]:
    lines = _lines([{"text": "a b"}, {"text": "c \u00e9", "n": 1}])
    table = b'n,text\n1,a b\n2,"c ""d"", e\nf"\n'
    found = [
        ("a.txt", "one\r\ntwo é".encode()),
        ("a.jsonl", lines),
        ("a.json", dump([{"text": "a b"}, "c"])),
        ("a.csv", table),
        ("a.jsonl.gz", gzip.compress(lines)),
        ("a.csv.gz", gzip.compress(table)),
        ("a.txt.gz", gzip.compress(b"one two" * 20)),
    ]
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        pass
    else:
        columns = pa.BufferOutputStream()
        rows = pa.table({"n": [1, 2], "text": ["a b", "c \u00e9"]})
        parquet.write_table(rows, columns, compression="gzip")
        found.append(("a.parquet", columns.getvalue().to_pybytes()))
    try:
        import zstandard

        found.append(("a.jsonl.zst", zstandard.ZstdCompressor().compress(lines)))
    except ImportError:
        pass
    return found


def _read_sources(path: Path) -> None:
    _all(*(functools.partial(_read_all, path, reading) for reading in READINGS))


def _read_all(path: Path, reading: Reading) -> None:
    for source in read_sources([path], reading):
        for _ in source.slices():
            pass


def _results(place: Path) -> Target:
    study = {"workloads": [{"config": "a.yaml"}], "optimizers": ["adamw", "sgd"]}
    without = {key: value for key, value in CONFIG.items() if key not in ("lora", "start")}
    config = resolve(None, (), without).config
    values = config.model_dump(mode="json")
    values["data"]["text"] = CONFIG["data"]["text"]  # no path of this machine in what is kept
    names = {"phase": "final", "workload": "a", "optimizer": "adamw", "number": 0, "seed": 1}
    point = {"step": 1, "train_loss": None, "val_loss": 2.0, "seconds": 0.1}
    trial = {"kind": "trial", "name": "final-a-adamw-0-seed1", **names, "status": "completed"}
    trial |= {"curve": [point], "final_loss": 2.0, "best_loss": 2.0, "state_bytes": 8}
    trial |= {"tokens_per_step": 8, "error": "", "config": values}
    timing = {"kind": "timing", "workload": "a", "optimizer": "adamw", "step_seconds": 0.1}
    header = {
        **{"kind": "bptool optimizer study", "format_version": 2, "plugins": [], "study": study},
        "workloads": [{"name": "a", "target": None, "config": values}],
        "candidates": {"a": {"adamw": [values["optimizer"]], "sgd": [{"name": "sgd"}]}},
    }
    place.mkdir()

    def read(path: Path) -> None:
        shutil.copyfile(path, place / "results.jsonl")
        ResultsFolder(place).read()

    return Target([("results.jsonl", _lines([header, trial, timing]))], read)


def _all(*calls: Callable[[], object]) -> None:
    """Every call; errors and warnings that a user may see are none."""
    for call in calls:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", BptoolWarning)
                call()
        except UserError as error:
            require_clear(error)


def require_clear(error: UserError) -> None:
    """Raise a ValueError where an error of ours is no line, or more lines than a list has."""
    text = str(error)
    listed = type(error).__name__ == "ConfigError" or text.count("\n  ") == text.count("\n")
    if not text.strip() or ("\n" in text and not listed):
        raise ValueError(f"an error of several lines: {text}")
    if len(text) > 20_000:
        raise ValueError(f"an error of {len(text):,} characters")
