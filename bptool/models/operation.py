"""What one kernel of a model's step is called, how often it runs, and what it must do at least.

A shard's step is one compiled call, so nothing can be timed inside it. Instead each model lists its
kernels in the order of the step, and each can be run alone on the arrays of a shard. Axis letters
are those of docs/design.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from bptool.ops.team import Team, share

ITEM_BYTES = 4
"""Training is in float32."""
TERMS = "label smoothing and z-loss"
"""Name of what they add to the loss; their backward is that of the cross-entropy."""


class Shard(NamedTuple):
    """The arrays that a worker's step runs on, shared by a team where the step is cut inside."""

    params: Any
    grads: Any
    work: Any
    """What :meth:`bptool.models.base.Model.workspace` made."""
    tokens: Any  # (n_sequences, T)
    targets: Any  # (n_sequences, T)
    team: Team

    @property
    def own(self) -> slice:
        """The rows of this member."""
        return self.part(self.tokens.size)

    def part(self, total: int) -> slice:
        """This member's part of so many rows or jobs."""
        return slice(*share(total, 1, self.team))


BACKWARD = ", backward"
"""How the names of a backward's operations end."""


@dataclass(frozen=True)
class Operation:
    """A kernel of a shard's step.

    Attributes:
        name: what the table calls it.
        count: calls in one pass over the shard; call ``i`` is that of layer ``i`` where layers
            have one each.
        flops: floating-point operations of its products in one call by all members, as
            ``flops_per_token`` counts them: attention has the whole T x T square, though what is
            masked may be skipped. 0 for a kernel without products.
        bytes: of the arrays that one call by all members reads and writes, each once.
        run: ``run(shard, i)`` makes call ``i``.
        skipped: of ``flops``, those that are left out.
        elements: numbers that are made and used up between its products, in no array that
            ``bytes`` counts: attention weights.
        variant: what else the model's settings make of it (an activation's name, ``bias``), where
            that changes its cost.
    """

    name: str
    count: int
    flops: float
    bytes: float
    run: Callable[[Shard, int], Any]
    skipped: float = 0.0
    elements: float = 0.0
    variant: str = ""

    @property
    def kernel(self) -> str:
        """What costs alike for the same work."""
        return f"{self.name} ({self.variant})" if self.variant else self.name

    @property
    def done_flops(self) -> float:
        """Floating-point operations that one call must make."""
        return self.flops - self.skipped


def elementwise(name: str, count: int, elements: float, run: Any, variant: str = "") -> Operation:
    """A kernel without products that reads and writes ``elements`` in all."""
    return Operation(name, count, 0.0, ITEM_BYTES * elements, run, variant=variant)


def linear(
    name: str,
    count: int,
    shape: tuple[int, int, int],
    forward: Any,
    backward: Any,
    variant: str = "",
) -> tuple[Operation, Operation]:
    """An affine map (N, I) -> (N, O), forward and backward; ``shape`` is (N, I, O).

    Forward: one product; backward: dx, and dW, which is read and written.
    """
    n, n_in, n_out = shape
    flops, weights, rows = 2.0 * n * n_in * n_out, n_in * n_out, n * (n_in + n_out)
    return (
        Operation(name, count, flops, ITEM_BYTES * (weights + rows), forward, variant=variant),
        Operation(
            f"{name}{BACKWARD}",
            *(count, 2 * flops, ITEM_BYTES * (3 * weights + rows + n * n_in + n * n_out)),
            backward,
            variant=variant,
        ),
    )


def forward_of(operations: Sequence[Operation]) -> list[Operation]:
    """The forward's part of a step's operations, which stand in order."""
    return list(itertools.takewhile(lambda o: not o.name.endswith(BACKWARD), operations))
