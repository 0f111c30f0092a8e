"""How numbers, durations, paths and curves are written for people."""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Sequence
from pathlib import Path

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.-=+*#@"
MISSING = "-"


def count(number: float) -> str:
    """``38200`` -> ``38,200``; from a million on three digits: ``1.21 M``."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:,.0f}"


def decimal(number: float | None, digits: int = 4) -> str:
    """A loss or the like with a fixed number of digits; a dash for what is not known."""
    return MISSING if number is None or math.isnan(number) else f"{number:.{digits}f}"


def bits_per_byte(number: float) -> str:
    """``, 1.234 bits per byte``; nothing where no text is predicted."""
    return "" if math.isnan(number) else f", {number:.3f} bits per byte"


def statistic(number: float | None) -> str:
    """A number of any size to three or four digits; a dash for what is not known."""
    if number is None or math.isnan(number):
        return MISSING
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"


def rate(number: float) -> str:
    """A learning rate to two digits, as one types it: ``0.16``, ``2.4e-3``."""
    if 0.0095 <= number < 1000:
        return f"{float(f'{number:.1e}'):g}"
    mantissa, exponent = f"{number:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def duration(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``2 min 05 s``, ``3 h 04 min``, ``2 d 03 h``."""
    if not math.isfinite(seconds):
        return MISSING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, part, part_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part:02d} {part_unit}"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def milliseconds(seconds: float) -> str:
    """``0.42 ms``, ``31.5 ms``, ``1,240 ms``: three digits."""
    return f"{seconds * 1e3:.3g} ms" if seconds < 0.9995 else f"{seconds * 1e3:,.0f} ms"


def near_path(path: str) -> str:
    """``path`` relative to the working folder when it lies inside, else as it is."""
    try:
        return str(Path(path).resolve().relative_to(Path.cwd().resolve()))
    except (OSError, ValueError):
        return path


def argument(text: str) -> str:
    """``text`` quoted for a shell, bare where it needs no quotes."""
    return shlex.quote(text)


def sparkline(values: Sequence[float], width: int, ascii_only: bool = False) -> str:
    """The curve of ``values`` in at most ``width`` characters, each the mean of its share.

    Heights follow the logarithm where all values are positive, so that the end of a falling
    loss still shows a slope.
    """
    values = [value for value in values if math.isfinite(value)]
    if not values or width < 1:
        return ""
    if min(values) > 0:
        values = [math.log(value) for value in values]
    n_columns = min(width, len(values))
    edges = [column * len(values) // n_columns for column in range(n_columns + 1)]
    means = [sum(values[start:end]) / (end - start) for start, end in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    blocks = ASCII_BLOCKS if ascii_only else BLOCKS
    scale = (len(blocks) - 1) / (high - low) if high > low else 0.0
    return "".join(blocks[round((mean - low) * scale)] for mean in means)
