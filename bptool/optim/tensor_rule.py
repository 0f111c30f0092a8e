"""The contract of rules that need whole tensors: norms of a layer, factors, matrix products.

A :class:`TensorRule` is given one tensor at a time, shaped, the layers of a stacked tensor apart.
The training step cuts the work over its workers by tensors, heaviest first, so that the result
does not depend on how many there are. The rule declares the state of each tensor; it is kept in
flat buffers like that of any other optimizer, one a name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bptool.ops.jit import kernel
from bptool.ops.matmul import MatmulEngine
from bptool.optim.base import Array, Optimizer

Shapes = dict[str, tuple[int, ...]]
_BOUNDARY = 16
"""Elements that scratch arrays start at multiples of."""


@dataclass(frozen=True)
class TensorInfo:
    """What a rule may know of a tensor.

    Attributes:
        name: as in checkpoints, ``h.3.mlp.c_fc.weight``. shape: of one layer.
        table: its rows stand for tokens or positions (embeddings, output weights).
    """

    name: str
    shape: tuple[int, ...]
    table: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class Bench(NamedTuple):
    """What a worker works with: its matrix engine, and room for ``scratch_size`` elements."""

    engine: MatmulEngine
    scratch: Array


class TensorRule(Optimizer):
    """A rule with ``update_tensor`` in place of ``update``, and ``state_shapes`` of ``slots``."""

    def state_shapes(self, tensor: TensorInfo) -> Shapes:
        """Shape of each state array that a tensor has, by name; all start at zero."""
        raise NotImplementedError

    def scratch_size(self, tensor: TensorInfo) -> int:
        """Elements of scratch that the update of a tensor takes; see :func:`room_for`."""
        return 0

    def cost(self, tensor: TensorInfo) -> float:
        """How long its update takes beside that of others, in any unit."""
        return float(tensor.size)

    def update_tensor(
        self,
        tensor: TensorInfo,
        w: Array,
        g: Array,
        state: Mapping[str, Array],
        bench: Bench,
        *,
        learning_rate: float,
        weight_decay: float,
        grad_scale: float,
        step: int,
    ) -> None:
        """Change ``w`` and the arrays of ``state`` in place by one step; ``g`` stays as it is.

        Called from several threads on different tensors, so it may not change ``self``. ``w``
        and ``g`` have the tensor's shape, ``state`` the declared ones, all contiguous and of one
        type; ``bench.scratch`` holds anything. The rest is as in :meth:`Optimizer.update`.
        """
        raise NotImplementedError


def padded(size: int) -> int:
    """``size`` rounded up to a boundary."""
    return -(-size // _BOUNDARY) * _BOUNDARY


def room_for(shapes: Sequence[tuple[int, ...]]) -> int:
    """Elements of scratch for arrays of these shapes."""
    return sum(padded(math.prod(shape)) for shape in shapes)


def carve(scratch: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """Arrays of these shapes out of scratch."""
    arrays, position = [], 0
    for shape in shapes:
        size = math.prod(shape)
        arrays.append(scratch[position : position + size].reshape(shape))
        position += padded(size)
    return arrays


@kernel
def keep_and_subtract(w: Array, d: Array, keep: float, factor: float) -> None:
    """w <- keep w - factor d. Arrays ``(n,)``."""
    keep_, factor_ = w.dtype.type(keep), w.dtype.type(factor)
    for i in range(w.shape[0]):
        w[i] = keep_ * w[i] - factor_ * d[i]
