"""Feeds damaged and hostile files to everything that reads one.

    python -m benchmarks.reliability.fuzz [MINUTES] [TARGET ...]

The targets are those of ``fuzz_targets.py``, each for so many minutes. Inputs are valid files
changed at random (``mutations.py``), one in eight of them by a value that hypothesis makes. Allowed
is what a user may see: success or a ``UserError`` of one line (or one that lists records). Anything
else, an input that takes more than ``SECONDS``, or memory of more than ``MEMORY_BYTES``, is a
finding: the input is kept in ``tests/fuzz_findings/TARGET``, and replayed first the next time and
by ``tests/test_fuzz.py``; ``FUZZ_FINDINGS`` names another folder. The seed is printed;
``FUZZ_SEED`` sets it. Inputs are read in a process of their own: one that dies, or reads for more
than ``HANGING_SECONDS``, is a finding too.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.reliability.fuzz_targets import Target, require_clear, targets
from benchmarks.reliability.mutations import changed, from_hypothesis
from bptool.errors import UserError

FINDINGS = Path(
    os.environ.get("FUZZ_FINDINGS")
    or Path(__file__).resolve().parents[2] / "tests" / "fuzz_findings"
)
SECONDS = 10.0
HANGING_SECONDS = 60.0
MEMORY_BYTES = 512 * 2**20
ADDRESS_BYTES = 8 * 2**30
"""What the process may ask the system for, most of which it does not touch."""
N_VALUES = 250
"""That hypothesis makes at once."""


def finding(target: Target, data: bytes, path: Path) -> str:
    """What is wrong with how ``target`` reads ``data`` at ``path``; empty where nothing is."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    began, before = time.monotonic(), _reset_peak()
    try:
        target.read(path)
    except UserError as error:
        try:
            require_clear(error)
        except ValueError:
            return traceback.format_exc()
    except Exception:
        return traceback.format_exc()
    finally:
        path.unlink(missing_ok=True)
    if time.monotonic() - began > SECONDS:
        return f"took {time.monotonic() - began:.0f} s"
    if _peak_bytes() - before > MEMORY_BYTES:
        return f"took {(_peak_bytes() - before) / 2**20:,.0f} MiB"
    return ""


def _reset_peak() -> int:
    """The bytes of memory in use, from which a peak is measured from now on where Linux lets us."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        pass
    return _peak_bytes()


def _peak_bytes() -> int:
    """The most memory that the process has had; 0 where the system does not say."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def kept(name: str) -> list[tuple[str, bytes]]:
    """The findings of a target: names and contents of files."""
    found = sorted(p for p in (FINDINGS / name).glob("*-*"))
    return [(path.name.partition("-")[2], path.read_bytes()) for path in found]


def keep(name: str, file: str, data: bytes, wrong: str) -> None:
    """Keep a finding and print it."""
    place = FINDINGS / name / f"{hashlib.sha256(data).hexdigest()[:16]}-{file}"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    print(f"{name}: finding {place.name}\n{wrong}", flush=True)


def _fuzz_here(name: str, folder: Path, seconds: float, seed: str, counts: Any) -> None:
    """Try inputs for so long; ``counts`` gets how many there were, and how many findings."""
    bound_addresses()
    os.environ["BPTOOL_CACHE_DIR"] = str(folder / "cache")
    target, draw, values = targets(folder)[name], random.Random(seed), list[Any]()
    queue = [*kept(name), *target.seeds]
    for file, data in target.seeds:  # what is measured and compiled once is no fault of an input
        finding(target, data, folder / "warm" / file)
    began, reasons = time.monotonic(), set[str]()
    while queue or time.monotonic() - began < seconds:
        if queue:
            file, data = queue.pop()
        else:
            values = values or from_hypothesis(N_VALUES, draw.randrange(2**32))
            put = values.pop() if draw.random() < 0.125 else None
            file, valid = draw.choice(target.seeds)
            data = changed(file, valid, draw, put)
        wrong = finding(target, data, folder / "input" / file)
        counts[0] += 1
        if wrong:
            counts[1] += 1
            reason = where(wrong)
            if reason not in reasons:  # one example of each
                reasons.add(reason)
                keep(name, file, data, wrong)


def where(wrong: str) -> str:
    """What tells a finding from others: the line that raised, and the exception's type."""
    lines = wrong.splitlines()
    places = [line for line in lines if line.startswith('  File "')]
    return f"{places[-1:]}{lines[-1].partition(':')[0]}"


def bound_addresses() -> None:
    """Make the system refuse this process more than ``ADDRESS_BYTES``, where it can."""
    try:
        import resource
    except ImportError:
        return
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, most))


def fuzz(name: str, seconds: float, seed: str, here: Callable[..., None] | None = None) -> int:
    """Fuzz a target for so long, in processes of their own; how many findings there were.

    Args:
        here: what such a process does, in place of :func:`_fuzz_here`.
    """
    context = multiprocessing.get_context("spawn")
    counts = context.Array("q", 2)
    began, deaths = time.monotonic(), 0
    while (left := seconds - (time.monotonic() - began)) > 0 or not counts[0]:
        with tempfile.TemporaryDirectory(prefix="bptool-fuzz-") as place:
            folder = Path(place)
            arguments = (name, folder, left, f"{seed} {name} {deaths}", counts)
            process = context.Process(target=here or _fuzz_here, args=arguments)
            process.start()
            while process.is_alive():
                process.join(1.0)
                if any(time.time() - since > HANGING_SECONDS for since in _reading(folder)):
                    process.kill()
                    process.join()
            if process.exitcode == 0:
                break
            deaths += 1
            counts[1] += 1
            inputs = list((folder / "input").glob("*"))
            for path in inputs:
                keep(name, path.name, path.read_bytes(), f"died with {process.exitcode}")
            if not inputs:
                raise RuntimeError(f"{name}: died with {process.exitcode} before its first input")
    took = time.monotonic() - began
    print(f"{name}: {counts[0]:,} inputs in {took:.0f} s, {counts[1]} findings", flush=True)
    return int(counts[1])


def _reading(folder: Path) -> list[float]:
    """When the input that is being read was written."""
    try:
        return [path.stat().st_mtime for path in (folder / "input").glob("*")]
    except OSError:  # read meanwhile
        return []


def main() -> None:
    """Fuzz each target for its time."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    seed = os.environ.get("FUZZ_SEED") or str(random.randrange(10**6))
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="bptool-fuzz-") as name:
        known = list(targets(Path(name)))
    found = [fuzz(one, 60 * minutes, seed) for one in sys.argv[2:] or known]
    sys.exit(int(any(found)))


if __name__ == "__main__":
    main()
