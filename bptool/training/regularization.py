"""What a step does to gradient and weights beside the loss and the optimizer, in its order.

1. penalties add their gradient, worker by worker over the flat buffers;
2. the gradient is clipped: by its norm, which is left to the optimizer as a factor where nothing
   else changes the gradient; by value; or unit by unit;
3. modifiers change it (noise);
4. the optimizer updates the weights;
5. constraints put rows of weights back.

What goes by rows is shared out by rows of each tensor, the rest by ranges of the buffers, so that
nothing depends on the number of workers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bptool.models.base import Array, FlatLayout, TensorPlace
from bptool.ops.team import LINE, Team, share
from bptool.optim.clipping import EPS, clip_by_value, clip_units, scale_gradient
from bptool.optim.norm import clip_scale
from bptool.regularizers.base import Constraint, GradientModifier, Penalty, Regularizer
from bptool.training.workers import WorkerTeam


@dataclass(frozen=True)
class Clipping:
    """How the gradient is clipped; at most one of them, None for none."""

    norm: float | None = None
    value: float | None = None
    adaptive: float | None = None


NO_CLIPPING = Clipping()


class Regularization:
    """Regularizers and clipping at work on a model's flat buffers.

    Args:
        regularizers: in the order of the configuration. clipping: of the gradient.
        layout: of the buffers. frozen: names of tensors that no constraint may change.
        team: the workers.
    """

    def __init__(
        self,
        regularizers: Sequence[Regularizer],
        clipping: Clipping,
        layout: FlatLayout,
        frozen: Collection[str],
        team: WorkerTeam,
    ) -> None:
        self.regularizers, self.clipping, self.team = tuple(regularizers), clipping, team
        self.penalties = [r for r in regularizers if isinstance(r, Penalty)]
        self.modifiers = [r for r in regularizers if isinstance(r, GradientModifier)]
        constraints = [r for r in regularizers if isinstance(r, Constraint)]
        self._layout, places = layout, layout.places()
        self._in_order = sorted(places, key=lambda place: place.start)
        constrained = [
            (rule, place)
            for rule in constraints
            for place in places
            if place.decay and place.name not in frozen
            if rule.applies_to(place.shape, place.table)
        ]
        # by worker
        self._clipped = [
            [_own_rows(place, member) for place in places if not place.table]
            for member in team.members
        ]
        self._constrained = [
            [(rule, _own_rows(place, member)) for rule, place in constrained]
            for member in team.members
        ]

    def penalize(self, weights: Array, gradient: Array, start: int, stop: int) -> float:
        """Add the penalties' gradient in a range of the buffers; returns the penalties."""
        decayed = slice(start, max(start, min(stop, self._layout.n_decayed)))
        w, g = weights[decayed], gradient[decayed]
        return sum(float(rule.penalty_and_gradient(w, g)) for rule in self.penalties)

    def change_gradient(
        self, gradient: Array, weights: Array, norm: float, seed: int, step: int
    ) -> float:
        """Clip a gradient of norm ``norm``, then modify it, in place.

        Returns what the optimizer is still to multiply it by.
        """
        scale = clip_scale(norm, self.clipping.norm)
        if self.clipping.adaptive is not None:
            self.team.run(lambda worker: self.clip_units(worker, gradient, weights))
        if not self.changes_elements:
            return scale
        self.team.run(lambda worker: self.change_range(worker, gradient, scale, seed, step))
        return 1.0

    def clip_units(self, worker: int, gradient: Array, weights: Array) -> None:
        """A worker's units of the adaptive clipping."""
        for rows in self._clipped[worker]:
            clip_units(rows.of(gradient), rows.of(weights), self.clipping.adaptive, EPS)

    def change_range(
        self, worker: int, gradient: Array, scale: float, seed: int, step: int
    ) -> None:
        """A worker's range of what is clipped and modified element by element."""
        start, stop = share(self._layout.size, LINE, self.team.members[worker])
        if scale != 1.0:
            scale_gradient(gradient[start:stop], scale)
        if self.clipping.value is not None:
            clip_by_value(gradient[start:stop], self.clipping.value)
        for rule in self.modifiers:
            for first, last in self._without_padding(start, stop):
                rule.modify(gradient[first:last], first=first, seed=seed, step=step)

    def _without_padding(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        for place in self._in_order:
            first, last = max(start, place.start), min(stop, place.stop)
            if first < last:
                yield first, last

    @property
    def constrains(self) -> bool:
        """Whether there is anything to constrain."""
        return bool(self._constrained[0])

    @property
    def changes_elements(self) -> bool:
        """Whether the gradient is changed element by element, by more than one factor."""
        return self.clipping.value is not None or bool(self.modifiers)

    def constrain(self, weights: Array) -> None:
        """Put weights back to the constraints."""
        if self.constrains:
            self.team.run(lambda worker: self.constrain_rows(worker, weights))

    def constrain_rows(self, worker: int, weights: Array) -> None:
        """A worker's rows of the constraints."""
        for rule, rows in self._constrained[worker]:
            rule.constrain(rows.of(weights))

    def compile(self, weights: Array, gradient: Array) -> None:
        """Compile the kernels, or load them from the cache, by changing nothing."""
        w, g = weights[:0], gradient[:0]
        if self.modifiers:
            scale_gradient(g, 1.0)
        if self.clipping.value is not None:
            clip_by_value(g, 1.0)
        if self.clipping.adaptive is not None:
            clip_units(g.reshape(0, 1), w.reshape(0, 1), self.clipping.adaptive, EPS)
        for modifier in self.modifiers:
            modifier.modify(g, first=0, seed=0, step=1)
        for rule, _ in self._constrained[0]:
            rule.constrain(w.reshape(0, 1))


class _Rows(NamedTuple):
    """A worker's rows of a tensor in a flat buffer."""

    start: int
    stop: int
    shape: tuple[int, int]

    def of(self, buffer: Array) -> Array:
        return buffer[self.start : self.stop].reshape(self.shape)


def _own_rows(place: TensorPlace, member: Team) -> _Rows:
    rows, width = place.units
    first, last = share(rows, 1, member)
    return _Rows(place.start + first * width, place.start + last * width, (last - first, width))
