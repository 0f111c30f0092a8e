"""How far the probabilities that a reward model gives can be believed."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from bptool.models.base import Array

N_BINS = 10


class Bin(NamedTuple):
    """Pairs of which the model is about equally sure."""

    low: float
    high: float
    n: int
    confidence: float
    """Mean probability that it gives to the answer it prefers; NaN where there are none."""
    accuracy: float
    """Share of them where that answer was chosen; ties of scores count half."""


def reliability(margins: Array) -> list[Bin]:
    """Pairs by how sure the model is, in bins of equal width from 1/2 to 1; ``margins`` are scores
    of the chosen answer less those of the rejected one."""
    confidence = 1.0 / (1.0 + np.exp(-np.abs(margins)))
    right = 0.5 + 0.5 * np.sign(margins)
    edges = np.linspace(0.5, 1.0, N_BINS + 1)
    number = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, N_BINS - 1)
    bins = []
    for i in range(N_BINS):
        inside = number == i
        n = int(inside.sum())
        values = (confidence[inside].mean(), right[inside].mean()) if n else (math.nan, math.nan)
        bins.append(Bin(float(edges[i]), float(edges[i + 1]), n, *map(float, values)))
    return bins


def calibration_error(margins: Array) -> float:
    """Expected calibration error: mean difference of confidence and accuracy over the bins, by how
    many pairs each has (Guo et al. 2017, "On calibration of modern neural networks")."""
    n = max(len(margins), 1)
    return sum(b.n / n * abs(b.confidence - b.accuracy) for b in reliability(margins) if b.n)
