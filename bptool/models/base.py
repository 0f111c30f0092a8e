"""What every model provides, and the flat buffer its parameters live in.

A model states its parameters once, as a tuple of :class:`ParamSpec`; names, order, shapes,
initialisation and weight decay all follow from it. Compiled code sees them as one NamedTuple of
arrays, views into one flat buffer; tensors of the layers are stacked on the first axis.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from bptool.config.lora_section import LoraConfig
from bptool.config.section import Section
from bptool.errors import ConfigError
from bptool.models.operation import Operation
from bptool.ops.documents import ONE_DOCUMENT
from bptool.ops.dropout import MaskKey
from bptool.ops.logit_terms import NO_TERMS, LogitTerms
from bptool.ops.memory import ALIGNMENT_BYTES, aligned_zeros
from bptool.ops.team import ALONE, Team
from bptool.registry import models

Array = npt.NDArray[Any]
NEW_ID_NOISE = 0.1
"""Of a new id's row, in standard deviations of the others."""
DRAWN_AT_ONCE = 1 << 18
"""Initial weights, in float64: all at once would take twice as much memory as they do."""


@dataclass(frozen=True)
class ParamSpec:
    """One parameter tensor, or one tensor of every layer stacked on the first axis.

    Attributes:
        field: the name in the model's NamedTuple.
        name: the name in checkpoints and reports, with ``{}`` for the layer where stacked.
        shape: of the whole; a dimension of 0 means that the model has no such tensor.
        init: what ``kind`` takes: the standard deviation of ``normal``, the value of
            ``constant``, the amplitude of ``sinusoidal`` (Vaswani et al. 2017, section 3.5).
        kind: how the tensor starts.
        decay: whether weight decay and penalties apply (not to biases and norms).
        table: whether its rows stand for tokens or positions (embeddings, output weights), which
            optimizers of matrices leave to another rule.
        rows: where checkpoints keep the rows apart, the name of each part and how many it has.
        stream: what initial values are drawn under; the field if empty.
        may_be_new: whether a run may start from weights without it, which then starts at 0.
    """

    field: str
    name: str
    shape: tuple[int, ...]
    init: float
    kind: Literal["normal", "constant", "sinusoidal"] = "normal"
    decay: bool = False
    table: bool = False
    rows: tuple[tuple[str, int], ...] = ()
    stream: str = ""
    may_be_new: bool = False

    @property
    def stacked(self) -> bool:
        return "{}" in self.name

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class TensorPlace:
    """One tensor, of one layer, and where it starts in a flat buffer."""

    name: str
    shape: tuple[int, ...]
    start: int
    decay: bool
    table: bool

    @property
    def stop(self) -> int:
        return self.start + math.prod(self.shape)

    @property
    def units(self) -> tuple[int, int]:
        """Shape as rows: a matrix (outputs, inputs) has one an output, a vector is one row."""
        rows = 1 if len(self.shape) == 1 else self.shape[0]
        return rows, math.prod(self.shape) // rows


class FlatLayout:
    """Where each tensor stands in a flat buffer: 64-byte boundaries, decayed tensors first."""

    def __init__(self, specs: tuple[ParamSpec, ...]) -> None:
        self.specs = specs
        per_boundary = ALIGNMENT_BYTES // 4
        self.offsets: dict[str, int] = {}
        position = 0
        for decay in (True, False):
            for spec in specs:
                if spec.decay == decay:
                    self.offsets[spec.field] = position
                    position += -(-spec.size // per_boundary) * per_boundary
            if decay:
                self.n_decayed = position
        self.size = position
        """Elements of a buffer, padding included; the first ``n_decayed`` are weight-decayed."""

    def allocate(self, dtype: npt.DTypeLike) -> Array:
        """A zeroed buffer that starts on a 64-byte boundary."""
        return aligned_zeros((self.size,), dtype)

    def views(self, buffer: Array) -> list[Array]:
        """The tensors of ``buffer`` in the order of the specs, shaped."""
        return [
            buffer[self.offsets[s.field] : self.offsets[s.field] + s.size].reshape(s.shape)
            for s in self.specs
        ]

    def spans_without(self, fields: frozenset[str]) -> list[slice]:
        """The buffer but for ``fields``, in as few ranges as there may be, with the padding."""
        # A tensor without elements begins where another does, and takes no part of the buffer.
        starts = sorted((self.offsets[s.field], s.field) for s in self.specs if s.size)
        stops = [offset for offset, _ in starts[1:]] + [self.size]
        spans: list[slice] = []
        for (start, field), stop in zip(starts, stops, strict=True):
            if field in fields:
                continue
            if spans and spans[-1].stop == start:
                spans[-1] = slice(spans[-1].start, stop)
            else:
                spans.append(slice(start, stop))
        return spans

    def places(self) -> list[TensorPlace]:
        """Every tensor, layers apart, in the order of the specs; those of size 0 are left out."""
        found = []
        for spec in self.specs:
            if spec.size == 0:
                continue
            shape = spec.shape[1:] if spec.stacked else spec.shape
            start = self.offsets[spec.field]
            for layer in range(spec.shape[0] if spec.stacked else 1):
                for name, n_rows in spec.rows or ((spec.name, shape[0]),):
                    part = (n_rows, *shape[1:])
                    place = TensorPlace(name.format(layer), part, start, spec.decay, spec.table)
                    found.append(place)
                    start = place.stop
        return found

    def named(self, buffer: Array) -> dict[str, Array]:
        """Views by checkpoint name, layers apart, in order; tensors of size 0 are left out."""
        return {p.name: buffer[p.start : p.stop].reshape(p.shape) for p in self.places()}


def sinusoids(n_positions: int, width: int) -> Array:
    """Sines, then cosines, of position / 10000^(i / half), shape (n_positions, width)."""
    half = -(-width // 2)
    angles = np.arange(n_positions)[:, None] / 10000.0 ** (np.arange(half) / half)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)[:, :width]


class Losses(NamedTuple):
    """Parts of what a step's gradient is the gradient of."""

    loss: float
    """Mean negative log-likelihood."""
    penalty: float
    """What label smoothing and z-loss add to it."""


class Reference(NamedTuple):
    """A small model, and the sequences of a shard of it."""

    model: Model
    n_sequences: int
    whole: bool
    """Whether its whole step is timed too, and not its kernels alone."""


class Model(ABC):
    """A language model: token ids in, log-probabilities of the next token out.

    Args:
        config: the model's own ``Config`` section.
        n_vocab: number of token ids.
    """

    Config: ClassVar[type[Section]]
    name: ClassVar[str]
    Params: ClassVar[Callable[..., Any]]
    """NamedTuple of parameter arrays, fields as in ``specs``."""
    value_head: ClassVar[bool] = False
    """Whether there may be a scalar beside the logits, of reward models and value functions: a
    setting ``score_head``."""
    lora: ClassVar[bool] = False
    """Whether its linear maps may have adapters (:meth:`adapted`)."""
    logprobs: ClassVar[bool] = False
    """Whether objectives may learn from the log-probability of each token (``forward_tokens``)."""
    stored: frozenset[str] = frozenset()
    """Fields whose gradient the first micro-batch of a step stores, so that they need not be
    cleared: most of the buffer, as a rule."""

    def __init__(self, config: Any, n_vocab: int) -> None:
        self.config = config
        self.n_vocab = n_vocab
        self.specs = self.make_specs()
        self.layout = FlatLayout(self.specs)

    @abstractmethod
    def make_specs(self) -> tuple[ParamSpec, ...]:
        """The parameter tensors in the order of the NamedTuple."""

    def workspace(self, n_sequences: int, n_time: int, dtype: npt.DTypeLike, engine: Any) -> Any:
        """That of a team of one."""
        return self.workspaces(n_sequences, n_time, dtype, [engine])[0]

    @abstractmethod
    def workspaces(
        self, n_sequences: int, n_time: int, dtype: npt.DTypeLike, engines: Sequence[Any]
    ) -> list[Any]:
        """A NamedTuple for each member of a team, who has an engine of its own and shares the
        activations, which are allocated once and reused."""

    @abstractmethod
    def workspace_bytes(
        self, n_sequences: int, n_time: int, itemsize: int, n_members: int = 1
    ) -> int:
        """Bytes that :meth:`workspaces` takes, but for the engines."""

    @abstractmethod
    def loss_and_gradient(
        self,
        params: Any,
        grads: Any,
        acts: Any,
        tokens: Array,
        targets: Array,
        inverse_n_targets: float,
        key: Any,
        team: Team = ALONE,
        terms: LogitTerms = NO_TERMS,
        adds: bool = True,
        starts: Array = ONE_DOCUMENT,
    ) -> Losses:
        """Forward, loss and backward of one shard in one compiled call.

        Every member of a team calls it at once, with ``acts`` of its own and all else shared.
        Adds to ``grads``, but for the fields in :attr:`stored`, which are overwritten unless
        ``adds``; returns this member's part of the shard's share of the two means.
        ``tokens`` and ``targets`` are (n_sequences, T) int32; ``key`` is a
        :class:`bptool.ops.dropout.MaskKey`; ``terms`` are label smoothing and z-loss; ``starts``,
        (n_sequences, T) int32, says where the documents of a row begin (``ops/documents.py``).
        """

    @abstractmethod
    def loss(
        self,
        params: Any,
        acts: Any,
        tokens: Array,
        targets: Array,
        team: Team = ALONE,
        terms: LogitTerms = NO_TERMS,
        starts: Array = ONE_DOCUMENT,
    ) -> float:
        """Sum (not mean) of the negative log-likelihoods over this member's unmasked targets, and
        of what ``terms`` add; nothing is dropped."""

    def forward_tokens(
        self,
        params: Any,
        acts: Any,
        tokens: Array,
        targets: Array,
        key: Any,
        team: Team = ALONE,
        starts: Array = ONE_DOCUMENT,
        of_logp: bool = True,
    ) -> None:
        """Forward to :meth:`token_logprobs`, if ``of_logp``, and :meth:`token_scores`, if the model
        has a scalar head. ``key`` None: nothing is dropped. Arguments as for
        :meth:`loss_and_gradient`."""
        raise self.no_logprobs()

    def backward_tokens(
        self,
        params: Any,
        grads: Any,
        acts: Any,
        tokens: Array,
        targets: Array,
        key: Any,
        dlogp: Array,
        dscores: Array,
        team: Team = ALONE,
        adds: bool = True,
        starts: Array = ONE_DOCUMENT,
        of_logp: bool = True,
    ) -> None:
        """Backward from the gradients of log-probabilities and scores, (N,), of the same shard's
        last :meth:`forward_tokens`, to ``grads``, as :meth:`loss_and_gradient` leaves them."""
        raise self.no_logprobs()

    def no_logprobs(self) -> ConfigError:
        """What a model without :attr:`logprobs` answers to an objective that learns from them."""
        return ConfigError(
            f"model '{self.name}' gives its loss only, no log-probabilities to learn from; "
            f"preferences and rewards need {models_with('logprobs')}"
        )

    def adapted(self, lora: LoraConfig, base: Array) -> Model:
        """This model with the weights ``base`` frozen, and adapters to train.

        Raises:
            ConfigError: it takes none, or one would be no smaller than its map.
        """
        raise ConfigError(
            f"model '{self.name}' takes no adapters; lora needs {models_with('lora')}"
        )

    def frozen_tensors(self) -> dict[str, Array]:
        """What is not trained, by checkpoint name."""
        return {}

    def merged(self, buffer: Array) -> Array:
        """Flat weights of a model without adapters that does what this one does with ``buffer``."""
        return buffer

    @property
    def drops(self) -> bool:
        """Whether training leaves anything out at random."""
        return False

    def token_scores(self, acts: Any) -> Array:
        """Scores of the scalar head in the last :meth:`forward_tokens`, (N,)."""
        raise self.no_logprobs()

    @property
    def has_scores(self) -> bool:
        """Whether there is a scalar head."""
        return False

    @abstractmethod
    def token_logprobs(self, acts: Any) -> Array:
        """Log-probability of each target in the last :meth:`loss` or :meth:`forward_tokens` of a
        whole team, (N,), 0 where masked."""

    @abstractmethod
    def decoder(self, params: Any, capacity: int, workers: Any) -> Any:
        """A :class:`bptool.models.decoder.Decoder` for up to ``capacity`` sequences."""

    def decoder_bytes(self, n_sequences: int) -> int:
        """Bytes that decoding so many sequences takes at most, but for the weights."""
        return 4 * n_sequences * self.n_vocab

    def relu_inputs(self, workspace: Any) -> Array | None:
        """What the last forward put into ReLUs, layers on the first axis; None where there are
        none. Gradient checks step around the kinks at 0."""
        return None

    def intermediates(self, workspace: Any) -> Sequence[tuple[str, Array]]:
        """What the operations of the last forward left behind, by name, in the order in which they
        ran. Only what is there at the end: scratch that was used again is left out."""
        return [("log-probabilities", self.token_logprobs(workspace))]

    @property
    def context(self) -> int:
        """Longest sequence the model takes."""
        return int(self.config.context)

    @property
    def n_parameters(self) -> int:
        return sum(spec.size for spec in self.specs)

    @property
    def n_trained(self) -> int:
        """Of the parameters, those that are trained."""
        return sum(spec.size for spec in self.layout.specs)

    @abstractmethod
    def flops_per_token(self, n_time: int) -> float:
        """Model FLOPs of forward and backward for one token of a sequence of ``n_time``."""

    @abstractmethod
    def operations(
        self, n_sequences: int, n_time: int, terms: LogitTerms = NO_TERMS
    ) -> list[Operation]:
        """The kernels of a shard's step in order. Their FLOPs are those of
        :meth:`flops_per_token`, but for 6 a token for each element of biases and norms, and of
        embeddings that are only looked up, which are multiplied with nothing."""

    @classmethod
    @abstractmethod
    def references(cls) -> list[Reference]:
        """Small models of this kind, the smallest first, from whose kernels the cost of any other's
        is told (:mod:`bptool.training.cost`).

        Every ``kernel`` of :meth:`operations` that settings can give is there in at least two
        sizes; in four or more, of different proportions, if it takes much of a step.
        """

    def pack(self, tensors: Mapping[str, Array]) -> Any:
        """The NamedTuple of tensors that are given by the fields of their specs."""
        return self.Params(**tensors)

    def params(self, buffer: Array) -> Any:
        """The NamedTuple of views into a flat buffer."""
        fields = [spec.field for spec in self.layout.specs]
        return self.pack(dict(zip(fields, self.layout.views(buffer), strict=True)))

    def gradients(self, buffer: Array) -> Any:
        """The same for a gradient; frozen tensors have arrays without elements there."""
        return self.params(buffer)

    @property
    def frozen_size(self) -> int:
        """Numbers that are not in the flat buffers, because they are not trained."""
        return 0

    def initialise(self, buffer: Array, seed: int) -> None:
        """Fill a flat buffer with initial weights, each tensor from a stream of its own name."""
        buffer[:] = 0
        for spec, view in zip(self.layout.specs, self.layout.views(buffer), strict=True):
            if spec.kind == "constant":
                view[...] = spec.init
            elif spec.kind == "sinusoidal":
                view[...] = spec.init * sinusoids(*spec.shape)
            elif spec.size:
                digest = hashlib.sha256((spec.stream or spec.field).encode()).digest()
                stream = int.from_bytes(digest[:8], "little")
                generator = np.random.Generator(np.random.Philox(key=[seed, stream]))
                flat = view.reshape(-1)
                for start in range(0, flat.size, DRAWN_AT_ONCE):
                    part = flat[start : start + DRAWN_AT_ONCE]
                    part[:] = generator.normal(0.0, spec.init, part.size)


def models_with(capability: str) -> str:
    """The models whose class says that they can, for messages."""
    names = [f"'{name}'" for name in models.names() if getattr(models.get(name), capability)]
    return f"model {' or '.join(names)}"


class Workspace(NamedTuple):
    """Activations of a team and one member's numbers for the two ways to run it."""

    acts: Any
    training: Any
    evaluating: Any


NO_KEY = MaskKey(0, 0, 0)


class CompiledModel(Model):
    """A model whose step is one compiled function over activations that a team shares."""

    compiled_step: ClassVar[Callable[..., tuple[float, float]]]
    """``(hyper, params, grads, acts, tokens, targets, starts, key, inverse_n_targets, terms, adds,
    backward, team)``: a member's part of the loss and of what the terms add."""

    @abstractmethod
    def shapes(self, n_sequences: int, n_time: int, n_members: int) -> dict[str, tuple[int, ...]]:
        """Of every activation and of scratch."""

    @abstractmethod
    def activations(self, arrays: dict[str, Array]) -> Any:
        """The NamedTuple that compiled code takes of arrays with these shapes."""

    @abstractmethod
    def hyper(self, engine: Any, training: bool) -> Any:
        """The numbers that compiled code needs; nothing is dropped but in training."""

    def workspaces(
        self, n_sequences: int, n_time: int, dtype: npt.DTypeLike, engines: Sequence[Any]
    ) -> list[Workspace]:
        shapes = self.shapes(n_sequences, n_time, len(engines))
        acts = self.activations(dict(zip(shapes, allocate(shapes, dtype), strict=True)))
        return [Workspace(acts, self.hyper(e, True), self.hyper(e, False)) for e in engines]

    def workspace_bytes(
        self, n_sequences: int, n_time: int, itemsize: int, n_members: int = 1
    ) -> int:
        return bytes_of(self.shapes(n_sequences, n_time, n_members), itemsize)

    def loss_and_gradient(
        self,
        params: Any,
        grads: Any,
        acts: Workspace,
        tokens: Array,
        targets: Array,
        inverse_n_targets: float,
        key: MaskKey,
        team: Team = ALONE,
        terms: LogitTerms = NO_TERMS,
        adds: bool = True,
        starts: Array = ONE_DOCUMENT,
    ) -> Losses:
        return Losses(
            *self.compiled_step(
                *(acts.training, params, grads, acts.acts, tokens, targets, starts),
                *(key, inverse_n_targets, terms, adds, True, team),
            )
        )

    def loss(
        self,
        params: Any,
        acts: Workspace,
        tokens: Array,
        targets: Array,
        team: Team = ALONE,
        terms: LogitTerms = NO_TERMS,
        starts: Array = ONE_DOCUMENT,
    ) -> float:
        return float(
            sum(
                self.compiled_step(
                    *(acts.evaluating, params, params, acts.acts, tokens, targets, starts),
                    *(NO_KEY, 1.0, terms, True, False, team),
                )
            )
        )

    def token_logprobs(self, acts: Workspace) -> Array:
        logp: Array = acts.acts.logp
        return logp


def grow_vocabulary(old: Model, weights: Array, new: Model, seed: int) -> Array:
    """Weights of ``new``, which has more token ids than ``old`` and is the same otherwise; a scalar
    head that ``old`` has not starts at 0.

    A new id starts as the mean of the others and a little noise: a row like no other would draw all
    probability to itself, or none. Tables with rows behind those of the ids keep these behind.
    """
    grown = new.layout.allocate(weights.dtype)
    before, after = old.layout.named(weights), new.layout.named(grown)
    for name, tensor in after.items():
        if name not in before:
            continue
        was = before[name]
        n_new = len(tensor) - len(was)
        if n_new == 0:
            tensor[...] = was
            continue
        n_old = old.n_vocab
        tensor[:n_old] = was[:n_old]
        tensor[n_old + n_new :] = was[n_old:]
        digest = hashlib.sha256(name.encode()).digest()
        key = [seed, int.from_bytes(digest[:8], "little")]
        noise = np.random.Generator(np.random.Philox(key=key)).normal(size=tensor[:n_new].shape)
        spread = NEW_ID_NOISE * was[:n_old].std(axis=0)
        tensor[n_old : n_old + n_new] = was[:n_old].mean(axis=0) + spread * noise
    return grown


def allocate(shapes: dict[str, tuple[int, ...]], dtype: npt.DTypeLike) -> list[Array]:
    """Aligned arrays of the given shapes, in order."""
    return [aligned_zeros(shape, dtype) for shape in shapes.values()]


def bytes_of(shapes: dict[str, tuple[int, ...]], itemsize: int) -> int:
    """Bytes that :func:`allocate` would take."""
    return sum(math.prod(shape) * itemsize + ALIGNMENT_BYTES for shape in shapes.values())
