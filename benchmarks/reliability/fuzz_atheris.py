"""Feeds the readers of ``fuzz_targets.py`` with inputs that reach code which none before reached.

    python -m benchmarks.reliability.fuzz_atheris TARGET MINUTES [FINDINGS]

Needs atheris (libFuzzer for Python; ``pip install atheris``). It changes valid files byte by byte,
or every second time as ``fuzz.py`` does, and goes on from those under which the readers took a
branch that was not taken before. What is allowed, the bounds of time and memory, and what becomes
of an input that kills its process are those of ``fuzz.py``; so is ``FUZZ_SEED``, which makes a
process draw the same, though not the same number of inputs. Findings are kept in the folder
``FINDINGS/TARGET``, by default where ``fuzz.py`` keeps its own, and tried first.

Code that Numba compiles is left alone, since it cannot be watched so.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[2] / "bptool"
COMPILED = ("ops", "models", "objectives", "optim", "regularizers")
LONGEST = 1 << 16
"""Bytes of an input, beside what the longest valid file has."""
NEVER = 10**6
"""Seconds: libFuzzer's own limit for an input would end the process without keeping it."""


def _unwatched() -> list[str]:
    """Modules that hold kernels."""
    found = [path for name in COMPILED for path in (PACKAGE / name).rglob("*.py")]
    names = [path.relative_to(PACKAGE.parent).with_suffix("").parts for path in found]
    return [".".join(parts).removesuffix(".__init__") for parts in names]


def _fuzz_here(name: str, folder: Path, seconds: float, seed: str, counts: Any) -> None:
    """Try inputs for so long and end the process; ``counts`` as in ``fuzz.py``.

    An input is the number of a valid file, whose name the content then has, and the content.
    """
    import atheris

    # it tells of every module
    with (
        contextlib.redirect_stderr(StringIO()),
        atheris.instrument_imports(include=["bptool"], exclude=_unwatched()),
    ):
        from benchmarks.reliability import fuzz
        from benchmarks.reliability.fuzz_targets import targets

    fuzz.bound_addresses()
    os.environ["BPTOOL_CACHE_DIR"] = str(folder / "cache")
    target = targets(folder)[name]
    names = [file for file, _ in target.seeds]
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, (file, data) in enumerate([*fuzz.kept(name), *target.seeds]):
        if file in names:
            (corpus / str(number)).write_bytes(bytes([names.index(file)]) + data)
    for file, data in target.seeds:  # what is measured and compiled once is no fault of an input
        fuzz.finding(target, data, folder / "warm" / file)
    reasons = set[str]()

    def read(data: bytes) -> None:
        if not data:
            return
        file = names[data[0] % len(names)]
        wrong = fuzz.finding(target, data[1:], folder / "input" / file)
        counts[0] += 1
        if wrong:
            counts[1] += 1
            reason = fuzz.where(wrong)
            if reason not in reasons:  # one example of each
                reasons.add(reason)
                fuzz.keep(name, file, data[1:], wrong)

    longest = LONGEST + max(len(data) for _, data in target.seeds)
    atheris.Setup(
        [
            *("fuzz", str(corpus), f"-max_total_time={max(1, round(seconds))}"),
            *(f"-seed={random.Random(seed).randrange(1, 2**31)}", f"-max_len={longest}"),
            *(f"-timeout={NEVER}", "-rss_limit_mb=0", "-verbosity=0", "-print_final_stats=1"),
            *("-detect_leaks=0", f"-artifact_prefix={folder}/", "-len_control=0"),
        ],
        read,
        # looked up late, since it is another function once atheris.Fuzz runs
        custom_mutator=_mutator(names, lambda *of: atheris.Mutate(*of)),
    )
    atheris.Fuzz()


def _mutator(
    names: list[str], by_bytes: Callable[[bytes, int], bytes]
) -> Callable[[bytes, int, int], bytes]:
    from benchmarks.reliability.mutations import changed

    def mutate(data: bytes, longest: int, seed: int) -> bytes:
        draw = random.Random(seed)
        number = data[0] % len(names) if data else draw.randrange(len(names))
        content, most = data[1:], max(longest - 1, 1)
        if draw.random() < 0.5:
            # a file that is damaged already may not be one that can be changed inside
            with contextlib.suppress(Exception):
                return bytes([number]) + changed(names[number], content, draw)[:most]
        return bytes([number]) + by_bytes(content, most)

    return mutate


def _refuse(text: str) -> None:
    sys.stderr.write(f"error: {text}\n")
    sys.exit(2)


def main() -> None:
    """Fuzz the target for its time; exit code 1 where there were findings."""
    if len(sys.argv) not in (3, 4):
        _refuse("give TARGET MINUTES [FINDINGS]; the targets are those of fuzz_targets.py")
    if importlib.util.find_spec("atheris") is None:
        _refuse("atheris is not installed; pip install atheris, or use benchmarks.reliability.fuzz")
    name, minutes = sys.argv[1:3]
    if len(sys.argv) == 4:
        os.environ["FUZZ_FINDINGS"] = str(Path(sys.argv[3]).absolute())
    import tempfile

    from benchmarks.reliability import fuzz
    from benchmarks.reliability.fuzz_targets import targets

    with tempfile.TemporaryDirectory(prefix="bptool-fuzz-") as place:
        known = list(targets(Path(place)))
    if name not in known:
        _refuse(f"no target {name!r}; known: {', '.join(known)}")
    try:
        seconds = 60.0 * float(minutes)
    except ValueError:
        _refuse(f"{minutes!r} is no number of minutes")
    seed = os.environ.get("FUZZ_SEED") or str(random.randrange(10**6))
    print(f"seed {seed}", flush=True)
    sys.exit(int(fuzz.fuzz(name, seconds, seed, _fuzz_here) > 0))


if __name__ == "__main__":
    main()
