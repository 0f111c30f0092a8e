"""The sites of a transformer: what it is made of, stated once, in the order of the forward.

A row of :func:`sites` is a site. Parameters with their names and offsets, activations with their
shapes, which maps may have adapters, floating-point operations and the parts of a profile all
follow from it. What a variant has not is a tensor with a dimension of 0. Kernels take a site's
arrays by the names given here, as fields of a NamedTuple of its kind (``site_kernels.py``).

Axis letters: N = B T rows, C width, H heads of D, G heads of keys and of values, F inner width,
V token ids, L layers, r rank of adapters.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from bptool.models.base import ParamSpec
from bptool.models.transformer_config import TransformerConfig

Kind = Literal["embedding", "norm", "linear", "qk_norm", "attention", "hidden", "head", "score"]
InitialValues = Literal["normal", "constant", "sinusoidal"]
Shape = tuple[int, ...]
POSITION_AMPLITUDE = 0.1
"""Of sinusoidal initial positions; 0.2 did no better."""
STREAMS = {
    "tokens": "wte",
    "positions": "wpe",
    "qkv": "attn",
    "proj": "attn_proj",
    "up": "fc",
    "down": "fc_proj",
    "head": "head_w",
}
"""Names under which initial weights have always been drawn, so that a seed gives the same ones."""


class Lora(NamedTuple):
    """Which linear sites have adapters, and of what rank."""

    rank: int
    sites: Collection[str]


NO_LORA = Lora(0, ())


class Size(NamedTuple):
    """Of the shard that activations are for."""

    n_sequences: int
    n_time: int
    n_members: int

    @property
    def n_rows(self) -> int:
        return self.n_sequences * self.n_time


ONE_ROW = Size(1, 1, 1)


@dataclass(frozen=True)
class Tensor:
    """A parameter tensor of one layer, or outside the layers.

    ``part`` is its field in the arrays of the site; ``name`` the one in checkpoints; the rest as in
    :class:`ParamSpec`. ``product``: whether its gradient is that of a matrix product, which a step
    overwrites at first.
    """

    part: str
    name: str
    shape: Shape
    init: float = 0.0
    kind: InitialValues = "constant"
    decay: bool = False
    table: bool = False
    product: bool = False
    rows: tuple[tuple[str, int], ...] = ()
    stream: str = ""
    may_be_new: bool = False


@dataclass(frozen=True)
class Kept:
    """An activation of one layer that the backward needs, or scratch.

    ``array`` names the array where several sites write to the same; ``layers`` is how many layers
    have their own, all if None.
    """

    shape: Shape
    array: str = ""
    layers: int | None = None


@dataclass(frozen=True)
class Site:
    """A row of the table.

    Attributes:
        field: its field in the arrays of a layer, or of the model where it is in no layer.
        title: what reports call it.
        tensors: its parameters. adapter: those of low rank beside a linear map.
        kept: its activations, by their field in the arrays of the site.
        layers: how many there are; 0 for one outside the layers.
        product: (rows, inputs, outputs) of a linear map.
        variant: what else decides its cost.
    """

    field: str
    kind: Kind
    title: str = ""
    tensors: tuple[Tensor, ...] = ()
    adapter: tuple[Tensor, ...] = ()
    kept: Mapping[str, Kept] = dataclasses.field(default_factory=dict)
    layers: int = 0
    product: tuple[int, int, int] = (0, 0, 0)
    variant: str = ""

    def array(self, part: str) -> str:
        """The name of the array of an activation."""
        return self.kept[part].array or f"{self.field}_{part}"


LORA_SITES = ("qkv", "proj", "up", "down")
"""Fields of the sites that may have adapters."""


def sites(
    c: TransformerConfig, n_vocab: int, lora: Lora = NO_LORA, size: Size = ONE_ROW
) -> tuple[Site, ...]:
    """The sites of the transformer ``c``, with the activations of a shard of ``size``."""
    n, width, d, f = size.n_rows, c.n_embd, c.head_width, c.hidden_width
    of_q, of_kv = c.n_head * d, c.kv_heads * d
    gated = c.mlp == "gated"
    residual = c.init_std / math.sqrt(2 * c.n_layer)
    branch = Kept((n, width), array="branch", layers=1)
    kept_up = c.n_layer if gated or c.activation == "relu" else 1  # for the backward, or a check

    def norm(site: str, title: str, layers: int = c.n_layer) -> Site:
        n_bias, n_mean = width * c.has_bias("norm"), n * (c.norm == "layernorm")
        tensors = (
            Tensor("w", f"{c.names[site]}.weight", (width,), 1.0),
            Tensor("b", f"{c.names[site]}.bias", (n_bias,)),
        )
        kept = {"y": Kept((n, width)), "mean": Kept((n_mean,)), "rstd": Kept((n,))}
        variant = "rmsnorm" if c.norm == "rmsnorm" else "bias" if n_bias else ""
        return Site(site, "norm", title, tensors, (), kept, layers, variant=variant)

    def linear(
        site: str,
        title: str,
        n_in: int,
        std: float,
        y: Kept,
        bias: bool,
        parts: Sequence[tuple[str, int]] = (),
    ) -> Site:
        name, stream, n_out = c.names[site], STREAMS[site], y.shape[1]
        rank = lora.rank if site in lora.sites else 0

        def rows(suffix: str) -> tuple[tuple[str, int], ...]:
            apart = all(part in c.names for part, _ in parts)
            return tuple((f"{c.names[p]}.{suffix}", size) for p, size in parts if apart)

        def weight(part: str, suffix: str, shape: Shape, init: float, **more: Any) -> Tensor:
            more |= {"decay": True, "product": True, "stream": f"{stream}_{part}"}
            kind: InitialValues = "normal" if init else "constant"
            return Tensor(part, f"{name}.{suffix}", shape, init, kind, **more)

        bias_rows = rows("bias") if bias else ()
        tensors = (
            weight("w", "weight", (n_out, n_in), std, rows=rows("weight")),
            Tensor("b", f"{name}.bias", (n_out * bias,), rows=bias_rows),
        )
        adapter = (
            weight("down", "lora_a", (rank, n_in), n_in**-0.5),
            weight("up", "lora_b", (n_out, rank), 0.0),
        )
        kept = {"y": y, "low": Kept((n, rank))}
        product, variant = (n, n_in, n_out), "bias" if bias else ""
        return Site(site, "linear", title, tensors, adapter, kept, c.n_layer, product, variant)

    def table(part: str, site: str, n_rows: int, product: bool) -> Tensor:
        sines = part == "positions" and c.position_init == "sinusoidal"
        init = POSITION_AMPLITUDE if sines else c.init_std
        kind: InitialValues = "sinusoidal" if sines else "normal"
        name, stream = f"{c.names[site]}.weight", STREAMS[site]
        return Tensor(part, name, (n_rows, width), init, kind, True, True, product, (), stream)

    n_positions = c.context if c.positions == "learned" else 0
    head_norm = d * c.qk_norm
    return (
        Site(
            "embed",
            "embedding",
            "embedding",
            (
                table("tokens", "tokens", n_vocab, c.tie_embeddings),
                table("positions", "positions", n_positions, False),
            ),
        ),
        norm("norm_1", "first norm"),
        linear(
            "qkv",
            "qkv",
            *(width, c.init_std, Kept((n, of_q + 2 * of_kv)), c.has_bias("qkv")),
            parts=(("q", of_q), ("k", of_kv), ("v", of_kv)),
        ),
        Site(
            "qk_norm",
            "qk_norm",
            "norms of queries and keys",
            (
                Tensor("q", f"{c.names['q_norm']}.weight", (head_norm,), 1.0),
                Tensor("k", f"{c.names['k_norm']}.weight", (head_norm,), 1.0),
            ),
            kept={
                "raw": Kept((n, (of_q + of_kv) * c.qk_norm)),
                "rstd": Kept((n, (c.n_head + c.kv_heads) * c.qk_norm)),
            },
            layers=c.n_layer,
        ),
        Site(
            "attention",
            "attention",
            "attention",
            kept={
                "y": Kept((n, of_q)),
                "row_stats": Kept((size.n_sequences, c.n_head, size.n_time, 2)),
            },
            layers=c.n_layer,
        ),
        linear("proj", "attention output", of_q, residual, branch, c.has_bias("proj")),
        norm("norm_2", "second norm"),
        linear(
            "up",
            "MLP up",
            *(width, c.init_std, Kept((n, f * (1 + gated)), layers=kept_up), c.has_bias("mlp")),
            parts=(("gate", f), ("up", f)) if gated else (),
        ),
        Site(
            "hidden",
            "hidden",
            "activation",
            kept={"y": Kept((n, f)), "slope": Kept((0 if gated else n, f))},
            layers=c.n_layer,
            variant=f"gated {c.activation}" if gated else c.activation,
        ),
        linear("down", "MLP down", f, residual, branch, c.has_bias("mlp")),
        norm("norm_f", "last norm", layers=0),
        Site(
            "head",
            "head",
            "head",
            (table("w", "head", 0 if c.tie_embeddings else n_vocab, not c.tie_embeddings),),
        ),
        Site(
            "score",
            "score",
            "scores",
            (
                Tensor(
                    *("w", f"{c.names['score']}.weight", (width * c.score_head,), 0.0, "normal"),
                    decay=True,
                    may_be_new=True,
                ),
                Tensor("b", f"{c.names['score']}.bias", (int(c.score_head),), may_be_new=True),
            ),
        ),
    )


def specs(table: Iterable[Site]) -> tuple[ParamSpec, ...]:
    """The parameters in their order in the flat buffer: those of low rank last."""
    rows = list(table)
    own = [_spec(site, tensor) for site in rows for tensor in site.tensors]
    return (*own, *(_spec(site, tensor) for site in rows for tensor in site.adapter))


def field_of(site: Site, tensor: Tensor) -> str:
    """The name of a tensor in a flat layout."""
    return f"{site.field}_{tensor.part}"


def _spec(site: Site, t: Tensor) -> ParamSpec:
    return ParamSpec(
        field_of(site, t),
        t.name,
        (site.layers, *t.shape) if site.layers else t.shape,
        t.init,
        t.kind,
        t.decay,
        t.table,
        t.rows,
        t.stream,
        t.may_be_new,
    )


def stored(table: Iterable[Site]) -> frozenset[str]:
    """Fields of the tensors whose gradient is that of a product."""
    return frozenset(
        field_of(site, t) for site in table for t in (*site.tensors, *site.adapter) if t.product
    )


def shapes(table: Iterable[Site]) -> dict[str, Shape]:
    """Of the activations that sites keep, by the names of their arrays, layers stacked."""
    return dict(_shapes(table))


def _shapes(table: Iterable[Site]) -> Iterator[tuple[str, Shape]]:
    for site in table:
        for part, kept in site.kept.items():
            n_layers = site.layers if kept.layers is None else kept.layers
            shape = (n_layers, *kept.shape) if site.layers else kept.shape
            yield site.array(part), shape
