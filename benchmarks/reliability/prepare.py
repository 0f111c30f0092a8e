"""Measures the memory that `bptool data prepare` takes for a large text.

    python -m benchmarks.reliability.prepare [GB] [TOKENIZER...]

Writes a text of so many GB (5) to the folder of temporary files and makes token files of it with
each tokenizer (byte and bpe). Each process may take 1 GB at its peak. Needs four times the text's
size of disk, which is given back.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.protocol import ROOT
from benchmarks.reliability.large import write_text
from bptool.files import format_bytes, free_bytes

MOST_BYTES = 1e9


def prepare(text: Path, tokenizer: str) -> dict[str, float]:
    """Seconds, and the most memory of any process so far, of preparing ``text``."""
    arguments = ["data", "prepare", str(text), "--set", f"data.tokenizer={tokenizer}"]
    began = time.perf_counter()
    command = [sys.executable, "-m", "bptool", *arguments]
    subprocess.run(command, check=True, cwd=ROOT, stdout=sys.stderr)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = unit * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {"seconds": round(time.perf_counter() - began, 1), "peak_bytes": peak}


def main() -> None:
    """Measure, print, and fail where it took too much."""
    n_bytes = int(float(sys.argv[1] if len(sys.argv) > 1 else 5) * 1e9)
    with tempfile.TemporaryDirectory(prefix="bptool-prepare-") as name:
        free = free_bytes(Path(name))
        if free is not None and free < 4 * n_bytes:
            sys.exit(f"{name}: needs {format_bytes(4 * n_bytes)} of disk, has {format_bytes(free)}")
        os.environ["BPTOOL_CACHE_DIR"] = name  # so that the tokens go with it
        text = Path(name) / "large.txt"
        found: dict[str, object] = {"text_bytes": write_text(text, n_bytes)}
        peaks = []
        for tokenizer in sys.argv[2:] or ["byte", "bpe"]:
            measured = prepare(text, tokenizer)
            found[tokenizer] = measured
            peaks.append(measured["peak_bytes"])
    print(json.dumps(found, indent=2))
    sys.exit(int(max(peaks) > MOST_BYTES))


if __name__ == "__main__":
    main()
