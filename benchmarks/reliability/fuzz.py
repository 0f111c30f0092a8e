"""Feeds damaged and hostile files to everything that reads one.

    python -m benchmarks.reliability.fuzz [MINUTES] [TARGET ...]

Targets: ``config``, ``tokenizer``, ``checkpoint``, ``run``, ``records``, ``prompt``, each for so
many minutes. Inputs are valid ones changed at random: bytes, pieces, and values of their JSON.
Allowed is what a user may see: success or a ``UserError`` of one line. Anything else, an input that
takes more than ``SECONDS``, or memory above ``MEMORY_BYTES`` more than before, is a finding: the
input is kept in ``benchmarks/reliability/findings/`` under its hash, and replayed first the next
time and by ``tests/test_fuzz.py``. The seed is printed; ``FUZZ_SEED`` sets it.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bptool.config.load import resolve
from bptool.data.chat.records import read_records
from bptool.data.tokenizers import Tokenizer, load_tokenizer
from bptool.errors import UserError
from bptool.files import write_text
from bptool.training.checkpoint import CheckpointStore, load_state
from bptool.training.metrics import read_metrics, rewind
from bptool.training.progress import Progress
from bptool.training.run_folder import RunFolder, read_json
from bptool.training.seal import write_sealed
from bptool.training.tensor_file import read_tensors, sha256_of, write_tensors

FINDINGS = Path(__file__).resolve().parent / "findings"
SECONDS = 10.0
MEMORY_BYTES = 512 * 2**20
HOSTILE_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**63, 2**64, 1e308, float("nan"), "", "\0", "../../x", "\ud800"),
    *([], {}, [[]], {"a": []}, "x" * 1000, [0] * 1000),
)
PIECES = (b"\0", b"[" * 500, b'{"a":' * 300, b"\xff", b"9" * 500, b"1e999", b"\r", b"\xef\xbb\xbf")


class Target:
    """Something that reads files.

    Attributes:
        seeds: valid inputs. read: takes the path of a file with an input.
    """

    def __init__(self, seeds: list[bytes], read: Callable[[Path], object]) -> None:
        self.seeds, self.read = seeds, read


def targets(folder: Path) -> dict[str, Target]:
    """All targets; ``folder`` is for what they need."""
    array = np.arange(6, dtype=np.float32)
    write_tensors(folder / "seed.safetensors", {"w": array, "b": np.ones(2)})
    char = {"format_version": 1, "tokenizer": "char", "special_tokens": [], "characters": " abc"}
    char["unknown"] = "error"
    byte = {"format_version": 1, "tokenizer": "byte", "special_tokens": ["<|end|>"]}
    bpe = {**byte, "tokenizer": "bpe", "merges": [[97, 98], [256, 99]]}
    state = {"step": 3, "sha256": {}, **_progress(), "lesson": {}}
    lines = [
        {"kind": "bptool metrics", "format_version": 1},
        {"kind": "step", "step": 1, "loss": 1.5, "n_tokens": 8},
        {"kind": "evaluation", "step": 1, "val_loss": 2.0},
    ]
    records = [
        {"prompt": "a", "completion": "b"},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"instruction": "a", "input": "", "output": "b"},
        {"text": "some text"},
    ]
    config = {
        "model": {"name": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 16, "context": 8},
        "data": {"text": ["a.txt"]},
        "training": {"steps": 5, "batch_size": 2, "spikes": {"then": "skip"}},
        "optimizer": {"name": "adamw", "learning_rate": 0.1},
    }

    def run(path: Path) -> None:
        data = path.read_bytes()
        for name in ("manifest.json", "checkpoints/index.json", "config.yaml"):
            (folder / "run" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "run" / name).write_bytes(data)
        store = CheckpointStore(folder / "run" / "checkpoints")
        _all(
            lambda: RunFolder(folder / "run").require_run(),
            lambda: read_json(folder / "run" / "manifest.json", "manifest"),
            store.index,
            lambda: read_metrics(path),
            lambda: rewind(path, 1),
        )

    def checkpoint(path: Path) -> None:
        data = path.read_bytes()
        place = folder / "checkpoints" / "step-00000003"
        place.mkdir(parents=True, exist_ok=True)
        (place / "state.json").write_bytes(data)
        into = {"w": np.zeros(6, np.float32), "b": np.zeros(2)}
        _all(
            lambda: Progress.from_state(load_state(place), place),
            lambda: _sealed(place, data),
            lambda: read_tensors(path, into, sha256_of(path)),
        )

    tokenizer = load_tokenizer(_written(folder / "t.json", char))

    def prompt(path: Path) -> None:
        text = path.read_bytes().decode("utf-8", errors="surrogateescape")
        for one in _tokenizers(folder, tokenizer, byte, bpe):
            _all(lambda one=one: one.decode(one.encode(text)))  # type: ignore[misc]

    texts = [b"abc cab", "é ÿ \U0001f600 \u202e\r\n\t".encode(), b"<|end|> a", b"a" * 5000]
    metrics = "\n".join(map(json.dumps, lines)).encode()
    return {
        "config": Target([_dump(config), _yaml(config)], lambda path: resolve(path)),
        "tokenizer": Target([_dump(x) for x in (char, byte, bpe)], _tokenizer_round_trip),
        "checkpoint": Target(
            [_dump(state), (folder / "seed.safetensors").read_bytes()], checkpoint
        ),
        "run": Target([metrics, _dump({"format_version": 1, "last": None}), _yaml(config)], run),
        "records": Target(
            ["\n".join(map(json.dumps, records)).encode(), _dump(records)],
            lambda path: list(read_records([str(path)])),
        ),
        "prompt": Target(texts, prompt),
    }


def _progress() -> dict[str, Any]:
    import dataclasses

    return dataclasses.asdict(Progress(step=3))


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def _yaml(value: Any) -> bytes:
    import yaml

    return yaml.safe_dump(value).encode()


def _written(path: Path, value: Any) -> Path:
    write_text(path, json.dumps(value))
    return path


def _tokenizers(folder: Path, char: Tokenizer, *others: Any) -> list[Tokenizer]:
    return [char, *(load_tokenizer(_written(folder / "other.json", one)) for one in others)]


def _tokenizer_round_trip(path: Path) -> None:
    tokenizer = load_tokenizer(path)
    tokenizer.token_bytes()
    tokenizer.decode(tokenizer.encode("abc"))


def _sealed(place: Path, data: bytes) -> None:
    """A state that someone sealed who knows how."""
    try:
        value = json.loads(data)
        if not isinstance(value, dict):
            return
        write_sealed(place / "state.json", {k: v for k, v in value.items() if k != "seal"})
    except (ValueError, RecursionError):  # nothing that can be written
        return
    else:
        Progress.from_state(load_state(place), place)


def _all(*calls: Callable[[], object]) -> None:
    """Every call; errors that a user may see are none."""
    for call in calls:
        try:
            call()
        except UserError as error:
            _require_one_line(error)


def _require_one_line(error: UserError) -> None:
    if "\n" in str(error):
        raise ValueError(f"an error of several lines: {error}")


def changed(seed: bytes, draw: random.Random) -> bytes:
    """A valid input, changed."""
    data = bytearray(seed)
    if draw.random() < 0.5:
        try:
            return _dump(_value_changed(json.loads(seed), draw))
        except (ValueError, RecursionError):
            pass
    for _ in range(draw.choice((1, 1, 2, 8))):
        at = draw.randrange(len(data) + 1)
        match draw.randrange(5):
            case 0 if data:
                data[at % len(data)] = draw.randrange(256)
            case 1:
                data[at:at] = draw.choice(PIECES)
            case 2:
                del data[at : at + draw.randrange(1, 20)]
            case 3:
                data[at:at] = data[draw.randrange(len(data) + 1) :][: draw.randrange(1, 200)]
            case _:
                del data[at:]
    return bytes(data)


def _value_changed(value: Any, draw: random.Random) -> Any:
    """JSON with one value of it replaced, doubled or left out."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        rest = {k: v for k, v in value.items() if k != key}
        if draw.random() < 0.15:
            return rest
        return rest | {key: _value_changed(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.9:
        at = draw.randrange(len(value))
        return [*value[:at], _value_changed(value[at], draw), *value[at + draw.randrange(2) :]]
    return draw.choice(HOSTILE_VALUES)


def finding(target: Target, data: bytes, path: Path) -> str:
    """What is wrong with how ``target`` reads ``data``; empty where nothing is."""
    path.write_bytes(data)
    began, before = time.monotonic(), _memory_bytes()
    try:
        target.read(path)
    except UserError:
        pass  # the configuration's may have a line for each mistake
    except Exception:
        return traceback.format_exc()
    if time.monotonic() - began > SECONDS:
        return f"took {time.monotonic() - began:.0f} s"
    if _memory_bytes() - before > MEMORY_BYTES:
        return "took too much memory"
    return ""


def _memory_bytes() -> int:
    """The most that the process has had in memory; 0 where the system does not say."""
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def fuzz(name: str, target: Target, folder: Path, seconds: float, draw: random.Random) -> int:
    """Try inputs for so long; how many were findings."""
    began, n, found = time.monotonic(), 0, 0
    path = folder / "input"
    kept = sorted((FINDINGS / name).glob("*")) if (FINDINGS / name).is_dir() else []
    queue = [*(one.read_bytes() for one in kept), *target.seeds]
    while queue or time.monotonic() - began < seconds:
        data = queue.pop() if queue else changed(draw.choice(target.seeds), draw)
        n += 1
        wrong = finding(target, data, path)
        if wrong:
            found += 1
            digest = hashlib.sha256(data).hexdigest()[:16]
            (FINDINGS / name).mkdir(parents=True, exist_ok=True)
            (FINDINGS / name / digest).write_bytes(data)
            print(f"{name}: finding {digest}\n{wrong}", flush=True)
    took = time.monotonic() - began
    print(f"{name}: {n:,} inputs in {took:.0f} s, {found} findings", flush=True)
    return found


def main() -> None:
    """Fuzz each target for its time."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    seed = int(os.environ.get("FUZZ_SEED", random.randrange(10**6)))
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        known = targets(folder)
        wanted = sys.argv[2:] or list(known)
        found = [
            fuzz(one, known[one], folder, 60 * minutes, random.Random(f"{seed} {one}"))
            for one in wanted
        ]
    sys.exit(int(any(found)))


if __name__ == "__main__":
    main()
