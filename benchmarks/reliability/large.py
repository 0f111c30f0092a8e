"""Trains on a text that is larger than the memory it may take.

    python -m benchmarks.reliability.large [MB] [TOKENIZER]

Writes a text of so many MB (2,000), tokenizes it and trains a small model for 100 steps. The
process may take 1.5 GB at its peak, the model's own few MB included. Needs three times the text's
size of disk, five times for bytes (the default, and the largest of token files).
"""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import tempfile
from pathlib import Path

from benchmarks.protocol import ROOT
from bptool.config.load import resolve
from bptool.training.begin import start_run
from bptool.training.run_folder import RunFolder

STEPS = 100
MOST_BYTES = 1.5e9
_WORDS = 200_000
"""Drawn at once."""


def peak_bytes() -> int:
    """The most memory that this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def write_text(path: Path, n_bytes: int) -> int:
    """Words of the bundled stories at random, each draw four times; how many bytes it became."""
    words = (ROOT / "data" / "stories.txt").read_text(encoding="utf-8").split()
    draw, written = random.Random(1), 0
    with path.open("wb") as file:
        while written < n_bytes:
            drawn = " ".join(draw.choices(words, k=min(_WORDS, n_bytes))) + "\n"
            written += file.write(drawn.encode() * 4)
    return written


def train(folder: Path, n_bytes: int, tokenizer: str) -> dict[str, int]:
    """Train in ``folder``, and say what it took."""
    text = folder / "large.txt"
    written = write_text(text, n_bytes)
    config = resolve(
        None,
        [],
        {
            "model": {"name": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 64, "context": 64},
            "data": {"text": [str(text)], "tokenizer": tokenizer},
            "training": {"steps": STEPS, "batch_size": 8, "eval_tokens": 1024},
            "sample": {"max_tokens": 8},
        },
    ).config
    training = start_run(config, RunFolder(folder / "run"))
    try:
        prepared = peak_bytes()
        training.run()
    finally:
        training.pieces.close()
    found = {"text_bytes": written, "peak_bytes_prepared": prepared, "peak_bytes": peak_bytes()}
    return found | {"steps": STEPS}


def main() -> None:
    """Train, print, and fail where it took too much."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    tokenizer = sys.argv[2] if len(sys.argv) > 2 else "byte"
    with tempfile.TemporaryDirectory(prefix="bptool-large-") as name:
        os.environ["BPTOOL_CACHE_DIR"] = name  # so that its tokens go with it
        found = train(Path(name), megabytes * 10**6, tokenizer)
    print(json.dumps(found, indent=2))
    sys.exit(int(found["peak_bytes"] > MOST_BYTES))


if __name__ == "__main__":
    main()
