"""Linear: a straight line from 1 down to ``final_fraction``, after a warm-up.

    curve(r) = 1 - r

The rest is in ``decay.py``. Down to 0, the default, is what BERT was trained with, and what the
theory of the last iterate favours (Defazio et al. 2023).

Papers: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", NAACL 2019
(appendix A.2); Defazio, Cutkosky, Mehta and Mishchenko, "Optimal Linear Decay Learning Rate
Schedules and Further Refinements", 2023, arXiv:2310.07831.

Where frameworks differ: PyTorch's ``LinearLR`` is the same with ``start_factor=1``, ``end_factor``
f and ``total_iters = decay_steps``, but is meant for a warm-up and starts at a third; Hugging
Face's ``get_linear_schedule_with_warmup`` is the same with f = 0 but for the warm-up, from 0.
"""

from __future__ import annotations

from bptool.optim.schedules.decay import Decay, DecayConfig
from bptool.registry import schedules


class LinearConfig(DecayConfig):
    """Settings of ``linear``."""


@schedules.register("linear")
class Linear(Decay):
    """A straight line down; see the module's docstring."""

    Config = LinearConfig

    def curve(self, done: int, total: int) -> float:
        return (total - done) / total
