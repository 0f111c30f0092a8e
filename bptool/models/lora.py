"""Low-rank adapters: a transformer whose weights are frozen, and what is trained beside them.

    W' = W + s B A,  s = alpha / rank

for the linear sites that are adapted (``ops/low_rank.py``). The flat buffers of an adapted model,
and so gradients, optimizer state and checkpoints, hold A and B alone (and embeddings, if they are
to be trained whole). A frozen tensor has a gradient without elements, which kernels leave alone.

Source: Hu et al. 2021, "LoRA: Low-rank adaptation of large language models", arXiv:2106.09685.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bptool.config.lora_section import LoraConfig
from bptool.errors import ConfigError
from bptool.models.base import Array, FlatLayout
from bptool.models.decoder import Workers
from bptool.models.sites import LORA_SITES, Lora
from bptool.models.transformer import Params, Transformer
from bptool.models.transformer_decode import TransformerDecoder
from bptool.ops.logit_terms import NO_TERMS, LogitTerms

TABLES = ("embed_tokens", "head_w")


class AdaptedTransformer(Transformer):
    """A transformer with frozen weights and adapters.

    Args:
        plain: the model without adapters. lora: which maps have them.
        base: flat buffer of the layout of ``plain``; never written to.
    """

    def __init__(self, plain: Transformer, lora: LoraConfig, base: Array) -> None:
        self.plain, self.lora_config, self.base = plain, lora, base
        self.name = plain.name  # type: ignore[misc]
        self.adapters = Lora(lora.rank, lora.sites)
        self.low_rank = lora.alpha / lora.rank
        super().__init__(plain.config, plain.n_vocab)
        whole = TABLES if lora.embeddings else ()
        adapters = [f"{site}_{part}" for site in LORA_SITES for part in ("down", "up")]
        trained = [s for s in self.specs if s.field in (*whole, *adapters) and s.size]
        self.layout = FlatLayout(tuple(trained))
        self._bases = {base.dtype: self._frozen(base)}

    @property
    def frozen_size(self) -> int:
        return self.plain.layout.size

    def frozen_tensors(self) -> dict[str, Array]:
        return self.plain.layout.named(self.base)

    def _frozen(self, base: Array) -> dict[str, Array]:
        layout = self.plain.layout
        fields = [spec.field for spec in layout.specs]
        return dict(zip(fields, layout.views(base), strict=True))

    def params(self, buffer: Array) -> Params:
        if buffer.dtype not in self._bases:  # a gradient check's
            self._bases[buffer.dtype] = self._frozen(self.base.astype(buffer.dtype))
        return self.pack(self._bases[buffer.dtype] | self._trained(buffer))

    def gradients(self, buffer: Array) -> Params:
        empty = {}
        for spec in self.specs:
            shape = list(spec.shape)
            shape[1 if spec.stacked else 0] = 0
            empty[spec.field] = np.zeros(shape, buffer.dtype)
        return self.pack(empty | self._trained(buffer))

    def _trained(self, buffer: Array) -> dict[str, Array]:
        fields = [spec.field for spec in self.layout.specs]
        return dict(zip(fields, self.layout.views(buffer), strict=True))

    def initialise(self, buffer: Array, seed: int) -> None:
        """Adapters that change nothing yet; embeddings as they are."""
        super().initialise(buffer, seed)
        frozen = self._frozen(self.base)
        for field, view in self._trained(buffer).items():
            if field in TABLES:
                view[...] = frozen[field]

    def merged(self, buffer: Array) -> Array:
        """Flat weights of the plain model that does what this one does with ``buffer``."""
        params = self.merged_params(self.params(buffer))
        weights = self.plain.layout.allocate(buffer.dtype)
        merged = self.plain.params(weights)
        for views, values in zip(leaves(merged), leaves(params), strict=True):
            if views.size:
                views[...] = values
        return weights

    def merged_params(self, params: Params) -> Params:
        """``params`` with the adapters folded into the maps, as the plain model takes them."""
        blocks = {}
        for site in LORA_SITES:
            linear = getattr(params.blocks, site)
            added: Any = 0.0
            if linear.down.size:
                added = linear.up.astype(np.float64) @ linear.down.astype(np.float64)
            w = (linear.w + self.low_rank * added).astype(linear.w.dtype, copy=False)
            none = np.zeros((len(w), 0, 0), w.dtype)
            blocks[site] = linear._replace(w=w, down=none, up=none)
        return params._replace(blocks=params.blocks._replace(**blocks))

    def decoder(self, params: Any, capacity: int, workers: Workers) -> TransformerDecoder:
        return TransformerDecoder(self, self.merged_params(params), capacity, workers)

    def decoder_bytes(self, n_sequences: int) -> int:
        return super().decoder_bytes(n_sequences) + 4 * self.plain.layout.size

    def operations(self, n_sequences: int, n_time: int, terms: LogitTerms = NO_TERMS) -> Any:
        raise ConfigError(
            "plans and profiles know no adapters; take the section lora out, and see what the "
            "whole model takes"
        )

    def flops_per_token(self, n_time: int) -> float:
        trained = {spec.field for spec in self.layout.specs}
        products = {*(f"{site}_w" for site in LORA_SITES), *TABLES}
        frozen = sum(s.size for s in self.specs if s.field in products - trained)
        adapters = sum(s.size for s in self.layout.specs if s.field not in TABLES)
        return self.plain.flops_per_token(n_time) - 2.0 * frozen + 6.0 * adapters


def leaves(tree: Any) -> list[Array]:
    """The arrays of nested NamedTuples, in order."""
    if isinstance(tree, tuple):
        return [leaf for part in tree for leaf in leaves(part)]
    return [tree]


def adapt(model: Transformer, lora: LoraConfig, base: Array) -> AdaptedTransformer:
    """:meth:`bptool.models.base.Model.adapted` of a transformer."""
    width = model.config.n_embd
    if lora.rank > width:
        raise ConfigError(
            f"lora.rank {lora.rank} is above n_embd {width}, so that adapters would be larger than "
            f"what they adapt; at most {max(1, math.isqrt(width))} is usual here"
        )
    return AdaptedTransformer(model, lora, base)
