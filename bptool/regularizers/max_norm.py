"""Max-norm: the weights into one unit are scaled back to a norm when an update takes them beyond.

    w_row <- w_row min(1, norm / ||w_row||_2)

Matrices are (outputs, inputs), so a row has the weights into one unit, as in the paper. Hidden
matrices are constrained, of every layer; with ``tables`` also embeddings and output weights, whose
rows belong to one token or position each. Biases and norms are left alone.

It acts on the weights in training after every update, whatever the optimizer; state of the
optimizer (momentum) is not touched. Where other weights are evaluated than trained
(``schedule-free-adamw``, averages), those are means of constrained weights.

Paper: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR
15, 2014, section 5.1 and appendix A.2, where norms of 3 to 4 did well. Keras's ``MaxNorm`` adds
1e-7 to the norm; PyTorch's ``embedding`` has it for the rows looked up.
"""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field

from bptool.ops.jit import kernel
from bptool.registry import regularizers
from bptool.regularizers.base import Array, Constraint, RegularizerConfig


class MaxNormConfig(RegularizerConfig):
    """Settings of ``max-norm``."""

    norm: float = Field(3.0, gt=0, le=1e6, description="Largest norm of the weights into a unit.")
    tables: bool = Field(
        False, description="Also for embeddings and output weights, a row for each token."
    )


@kernel
def max_norm_rows(w: Array, norm: float) -> None:
    """Rows ``(rows, width)``; one within the norm, summed in float64, is left as it is."""
    for i in range(w.shape[0]):
        row = w[i]
        squares = 0.0
        for j in range(row.size):
            squares += np.float64(row[j]) * np.float64(row[j])
        if squares > norm * norm:
            scale = w.dtype.type(norm / math.sqrt(squares))
            for j in range(row.size):
                row[j] *= scale


@regularizers.register("max-norm")
class MaxNorm(Constraint):
    """Norm of each row at most ``norm``."""

    Config = MaxNormConfig
    config: MaxNormConfig

    def applies_to(self, shape: tuple[int, ...], table: bool) -> bool:
        return len(shape) == 2 and (self.config.tables or not table)

    def constrain(self, w: Array) -> None:
        max_norm_rows(w, self.config.norm)
