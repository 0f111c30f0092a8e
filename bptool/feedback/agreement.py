"""How far reviewers agree: shares, and Fleiss' kappa.

    kappa = (P - P_e) / (1 - P_e)

P is the mean share of agreeing pairs of reviewers over the pairs of answers, P_e what it would be
if each reviewer drew from the shares of all choices. Two reviewers are its simplest case.
Source: Fleiss 1971, "Measuring nominal scale agreement among many raters", equations 3 to 7; his
equal number of raters a subject is relaxed, as usual, by counting the pairs that there are.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from bptool.feedback.prompts import as_messages
from bptool.feedback.store import Judgement


@dataclass(frozen=True)
class Agreement:
    """Over the pairs of answers that several reviewers judged."""

    n_pairs: int
    reviewers: tuple[str, ...]
    share: float
    """Of two reviewers of the same pair who said the same; NaN where nothing was judged twice."""
    kappa: float
    """NaN also where all said the same of everything."""


def agreement(judgements: Sequence[Judgement]) -> Agreement:
    """How far the reviewers of ``judgements`` agree; what was skipped or edited does not count."""
    said: dict[object, dict[str, str]] = defaultdict(dict)
    for j in judgements:
        if j.choice in ("left", "right", "tie"):
            first, second = sorted((j.left, j.right))
            better = j.chosen if j.choice != "tie" else None
            word = "tie" if better is None else "first" if better == first else "second"
            said[as_messages(j.prompt), first, second][j.reviewer] = word
    shared = [Counter(words.values()) for words in said.values() if len(words) > 1]
    reviewers = tuple(sorted({j.reviewer for j in judgements}))
    if not shared:
        return Agreement(0, reviewers, math.nan, math.nan)
    shares = [
        sum(n * (n - 1) for n in counts.values()) / (counts.total() * (counts.total() - 1))
        for counts in shared
    ]
    observed = math.fsum(shares) / len(shares)
    totals = sum(shared, Counter[str]())
    expected = sum((n / totals.total()) ** 2 for n in totals.values())
    kappa = (observed - expected) / (1 - expected) if expected < 1 else math.nan
    return Agreement(len(shared), reviewers, observed, kappa)
