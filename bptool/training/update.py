"""An optimizer at work on a model's flat buffers: its state, groups, and parts of the workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bptool.models.base import Array, FlatLayout, TensorPlace
from bptool.ops.memory import aligned_zeros
from bptool.optim.base import Optimizer
from bptool.optim.groups import TensorSettings, settle
from bptool.optim.tensor_rule import Bench, TensorInfo, TensorRule, padded
from bptool.training.machine import Engine

TRAINED = "training_weights"
"""Name, in a checkpoint's optimizer state, of weights that are not those to evaluate."""


@dataclass(frozen=True)
class Span:
    """A range of the flat buffers with one learning-rate factor and one weight decay."""

    start: int
    stop: int
    settings: TensorSettings


def tensor_settings(optimizer: Optimizer, layout: FlatLayout) -> dict[str, TensorSettings]:
    """Learning-rate factor and weight decay of each tensor.

    Raises:
        ConfigError: a group of the optimizer's settings matches no tensor.
    """
    decays = {p.name: optimizer.weight_decay if p.decay else 0.0 for p in layout.places()}
    return settle(optimizer.config.groups, decays)


def spans_of(optimizer: Optimizer, layout: FlatLayout) -> list[Span]:
    """The whole buffer in as few ranges as its settings allow; padding goes with what precedes."""
    settings = tensor_settings(optimizer, layout)
    places = sorted(layout.places(), key=lambda place: place.start)
    starts = [place.start for place in places[1:]] + [layout.size]
    spans: list[Span] = []
    for place, stop in zip(places, starts, strict=True):
        own = settings[place.name]
        if spans and spans[-1].settings == own:
            spans[-1] = Span(spans[-1].start, stop, own)
        else:
            spans.append(Span(place.start, stop, own))
    return spans


def parameter_groups(optimizer: Optimizer, layout: FlatLayout) -> list[dict[str, Any]]:
    """What a manifest says: how many tensors and parameters have which rate and decay."""
    settings = tensor_settings(optimizer, layout)
    groups: dict[TensorSettings, dict[str, Any]] = {}
    for place in layout.places():
        own = settings[place.name]
        group = groups.setdefault(own, {**asdict(own), "n_tensors": 0, "n_parameters": 0})
        group["n_tensors"] += 1
        group["n_parameters"] += place.stop - place.start
    return list(groups.values())


def info_of(place: TensorPlace) -> TensorInfo:
    return TensorInfo(place.name, place.shape, place.table)


def share_out(rule: TensorRule, layout: FlatLayout, n_workers: int) -> list[list[TensorPlace]]:
    """Each worker's tensors: the costliest first, always to whom has least to do."""
    shares: list[list[TensorPlace]] = [[] for _ in range(n_workers)]
    loads = [0.0] * n_workers
    costs = [(rule.cost(info_of(place)), place) for place in layout.places()]
    for cost, place in sorted(costs, key=lambda item: -item[0]):
        worker = loads.index(min(loads))
        shares[worker].append(place)
        loads[worker] += cost
    return shares


class OptimizerState:
    """The state of an optimizer: a flat buffer a name.

    Attributes:
        buffers: slots and scalars by name.
    """

    def __init__(
        self, optimizer: Optimizer, layout: FlatLayout, dtype: npt.DTypeLike = np.float32
    ) -> None:
        self.layout = layout
        self.buffers: dict[str, Array] = {}
        self._tensors: dict[str, dict[str, Array]] | None = None
        if isinstance(optimizer, TensorRule):
            self._tensors = self._allocate(optimizer, dtype)
        else:
            self.buffers = {name: layout.allocate(dtype) for name in optimizer.slots}
        self.scalars = {name: np.zeros(1) for name in optimizer.scalars}
        self.buffers |= self.scalars

    def _allocate(self, rule: TensorRule, dtype: npt.DTypeLike) -> dict[str, dict[str, Array]]:
        """Buffers of the sizes that the rule declares, and the views of each tensor."""
        shapes = {p.name: rule.state_shapes(info_of(p)) for p in self.layout.places()}
        for name, size in slot_sizes(rule, self.layout).items():
            self.buffers[name] = aligned_zeros((size,), dtype)
        taken = dict.fromkeys(self.buffers, 0)
        views: dict[str, dict[str, Array]] = {}
        for tensor, own in shapes.items():
            views[tensor] = {}
            for slot, shape in own.items():
                start, size = taken[slot], int(np.prod(shape))
                views[tensor][slot] = self.buffers[slot][start : start + size].reshape(shape)
                taken[slot] += padded(size)
        return views

    def of_tensor(self, name: str) -> dict[str, Array]:
        """A tensor's state arrays, shaped, and the scalars."""
        assert self._tensors is not None
        return self._tensors[name] | self.scalars

    def of_range(self, start: int, stop: int) -> dict[str, Array]:
        """Slices of the slots, and the scalars."""
        return {
            name: buffer if name in self.scalars else buffer[start:stop]
            for name, buffer in self.buffers.items()
        }

    def named(self) -> dict[str, Array]:
        """Every array of the state as a checkpoint names it: ``slot/tensor``, or the scalar."""
        if self._tensors is not None:
            slots = {f"{s}/{t}": v for t, own in self._tensors.items() for s, v in own.items()}
        else:
            slots = {
                f"{slot}/{tensor}": view
                for slot, buffer in self.buffers.items()
                if slot not in self.scalars
                for tensor, view in self.layout.named(buffer).items()
            }
        return slots | self.scalars


def slot_sizes(optimizer: Optimizer, layout: FlatLayout) -> dict[str, int]:
    """Elements of each slot's buffer."""
    if not isinstance(optimizer, TensorRule):
        return dict.fromkeys(optimizer.slots, layout.size)
    sizes: dict[str, int] = {}
    for place in layout.places():
        for slot, shape in optimizer.state_shapes(info_of(place)).items():
            sizes[slot] = sizes.get(slot, 0) + padded(int(np.prod(shape)))
    return sizes


def _scratch_sizes(rule: TensorRule, shares: list[list[TensorPlace]]) -> list[int]:
    return [max((rule.scratch_size(info_of(p)) for p in own), default=0) for own in shares]


def elements_held(optimizer: Optimizer, layout: FlatLayout, n_workers: int) -> int:
    """Numbers that an optimizer keeps: state, scratch, and weights to evaluate of their own."""
    held = sum(slot_sizes(optimizer, layout).values())
    if optimizer.evaluates_elsewhere:
        held += layout.size
    if isinstance(optimizer, TensorRule):
        held += sum(_scratch_sizes(optimizer, share_out(optimizer, layout, n_workers)))
    return held


class WeightUpdate:
    """Updates weights by an optimizer; each worker calls it for its part.

    Attributes:
        state: what the optimizer remembers.
        frozen: names of tensors whose learning-rate factor is 0: they are left as they are.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        layout: FlatLayout,
        n_workers: int,
        engine: Engine,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        self.optimizer = optimizer
        self.state = OptimizerState(optimizer, layout, dtype)
        self._spans = spans_of(optimizer, layout)
        self._settings = tensor_settings(optimizer, layout)
        rates = {name: own.learning_rate_factor for name, own in self._settings.items()}
        self.frozen = frozenset(name for name, rate in rates.items() if rate == 0)
        if isinstance(optimizer, TensorRule):
            self._shares = share_out(optimizer, layout, n_workers)
            sizes = _scratch_sizes(optimizer, self._shares)
            self._benches = [Bench(engine.make(dtype), aligned_zeros((n,), dtype)) for n in sizes]

    def begin(self, learning_rate: float, step: int) -> None:
        """Bring the optimizer's scalars to ``step``; once, before the workers start."""
        scalars = self.state.scalars
        before = {name: float(value[0]) for name, value in scalars.items()}
        after = self.optimizer.advance(before, learning_rate=learning_rate, step=step)
        for name in scalars:
            scalars[name][0] = after[name]

    def __call__(
        self,
        worker: int,
        part: tuple[int, int],
        weights: Array,
        gradient: Array,
        learning_rate: float,
        grad_scale: float,
        step: int,
    ) -> None:
        """A worker's part of the update: its range of the buffers, or its tensors."""
        if isinstance(self.optimizer, TensorRule):
            for place in self._shares[worker]:
                w, g = (
                    x[place.start : place.stop].reshape(place.shape) for x in (weights, gradient)
                )
                state = self.state.of_tensor(place.name)
                self._update_tensor(worker, place, w, g, state, learning_rate, grad_scale, step)
            return
        for span in self._spans:
            first, last = max(part[0], span.start), min(part[1], span.stop)
            if first < last:
                self.optimizer.update(
                    weights[first:last],
                    gradient[first:last],
                    self.state.of_range(first, last),
                    learning_rate=learning_rate * span.settings.learning_rate_factor,
                    weight_decay=span.settings.weight_decay,
                    grad_scale=grad_scale,
                    step=step,
                )

    def _update_tensor(
        self,
        worker: int,
        place: TensorPlace,
        w: Array,
        g: Array,
        state: Mapping[str, Array],
        learning_rate: float,
        grad_scale: float,
        step: int,
    ) -> None:
        assert isinstance(self.optimizer, TensorRule)
        settings = self._settings[place.name]
        self.optimizer.update_tensor(
            *(info_of(place), w, g, state, self._benches[worker]),
            learning_rate=learning_rate * settings.learning_rate_factor,
            weight_decay=settings.weight_decay,
            grad_scale=grad_scale,
            step=step,
        )

    def compile(self, weights: Array, gradient: Array) -> None:
        """Compile the rule's kernels, or load them from the cache; nothing changes.

        A rule of single elements runs on none. One of whole tensors runs on copies of one tensor
        of each shape, since its kernels may depend on that, with the weights for a gradient.
        """
        steps = (1, 2)  # a rule may begin with a step of another kind
        rate = self.optimizer.config.learning_rate
        if not isinstance(self.optimizer, TensorRule):
            nothing = slice(0, 0)
            for step in steps:
                self.optimizer.update(
                    weights[nothing],
                    gradient[nothing],
                    self.state.of_range(0, 0),
                    learning_rate=rate,
                    weight_decay=self.optimizer.weight_decay,
                    grad_scale=1.0,
                    step=step,
                )
            return
        kinds = {(p.shape, p.table): p for own in self._shares for p in own}
        scalars = {name: value.copy() for name, value in self.state.scalars.items()}
        for place in kinds.values():
            owner = next(i for i, own in enumerate(self._shares) if place in own)
            w = weights[place.start : place.stop].reshape(place.shape)
            state = {name: array.copy() for name, array in self.state.of_tensor(place.name).items()}
            state |= self.state.scalars
            copy = w.copy()
            for step in steps:
                self.begin(rate, step)
                self._update_tensor(owner, place, copy, w, state, rate, 1.0, step)
        for name, value in scalars.items():
            self.state.scalars[name][:] = value
