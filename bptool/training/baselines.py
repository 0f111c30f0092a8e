"""What agrees with judgements of pairs without training: guessing, lengths, the model before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bptool.data.chat.rendering import Rendering
from bptool.data.preference_set import Unit
from bptool.feedback.win_rate import wilson
from bptool.models.base import Array
from bptool.objectives.base import accuracy


@dataclass(frozen=True)
class Share:
    """How often something agrees with judgements, ties half, and the 95 % interval of that."""

    name: str
    share: float
    interval: tuple[float, float]


def baselines(judged: Sequence[Unit], rendering: Rendering, before: Array | None) -> list[Share]:
    """What needs no training: guessing, lengths in characters, the model before training."""
    text = rendering.text
    lengths = [[len(text(d.ids[d.n_prompt :].tolist())) for d in unit[:2]] for unit in judged]
    longer = np.array(lengths) @ [1.0, -1.0]
    rules = [("the shorter answer", -longer), ("the longer answer", longer)]
    if before is not None:
        rules.append(("the answer that the untouched model finds likelier", margins_of(before)))
    shares = [(name, accuracy(margins)) for name, margins in rules]
    chance = Share("chance", 0.5, (0.5, 0.5))
    return [chance, *(Share(name, share, wilson(share, len(judged))) for name, share in shares)]


def margins_of(values: Array) -> Array:
    """The first of each two less the second."""
    margins: Array = values.reshape(-1, 2) @ [1.0, -1.0]
    return margins
