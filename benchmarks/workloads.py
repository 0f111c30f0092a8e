"""The models and batches that are timed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Workload:
    """A GPT-2 without biases, exact GELU, tied head, no dropout, and the batch it trains on."""

    n_layer: int
    n_head: int
    n_embd: int
    context: int
    batch_size: int
    vocab_size: int
    about: str

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.batch_size * self.context

    @property
    def flops(self) -> float:
        """Model FLOPs of a step: 6 a weight (positions apart) and 12 L T C for attention."""
        weights = 12 * self.n_layer * self.n_embd**2 + self.vocab_size * self.n_embd
        attention = 12.0 * self.n_layer * self.n_embd * self.context
        return (6.0 * weights + attention) * self.tokens

    def batch(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The tokens and targets, (batch, context) int64, that every peer trains on."""
        generator = np.random.default_rng(11)
        shape = (self.batch_size, self.context)
        tokens = generator.integers(0, self.vocab_size, shape)
        return tokens, generator.integers(0, self.vocab_size, shape)

    def model(self) -> Any:
        """The same model of bptool's."""
        from bptool.models.presets import GPT2, GPT2Config

        sizes = {k: getattr(self, k) for k in ("n_layer", "n_head", "n_embd", "context")}
        return GPT2(GPT2Config(**sizes, bias=False), self.vocab_size)


WORKLOADS = {
    "A": Workload(4, 4, 128, 64, 12, 65, "nanoGPT's CPU run on Shakespeare by characters"),
    "A64": Workload(4, 4, 128, 64, 64, 65, "A with a batch of 64"),
    "B": Workload(6, 6, 384, 256, 8, 65, "nanoGPT's GPU run on Shakespeare, batch 8"),
    "C": Workload(12, 12, 768, 64, 4, 50257, "GPT-2 124M, as llm.c times it"),
    "L": Workload(12, 12, 768, 1024, 1, 50257, "GPT-2 124M on one long sequence"),
    "tiny": Workload(2, 2, 32, 16, 4, 65, "for the tests"),
}
LEARNING_RATE, BETAS, EPSILON = 1e-4, (0.9, 0.99), 1e-8
WEIGHT_DECAY, CLIP_NORM = 0.1, 1.0
"""Of AdamW; matrices and embeddings are decayed, gains of norms are not."""
SEED = 7
"""Of the initial weights."""
