"""Low-rank adapters: a model whose weights are frozen, and what is trained beside them.

    W' = W + s B A,  s = alpha / rank

for the linear maps that are adapted (``ops/low_rank.py``). The flat buffers of an adapted model,
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
from bptool.models.base import Array, FlatLayout, Model, ParamSpec
from bptool.models.decoder import Workers
from bptool.models.gpt2 import GPT2
from bptool.models.gpt2_decode import GPT2Decoder
from bptool.models.gpt2_tensors import Params, gpt2_specs
from bptool.models.operation import Operation
from bptool.ops.logit_terms import NO_TERMS, LogitTerms

MAPS = ("attn", "attn_proj", "fc", "fc_proj")
TABLES = ("wte", "head_w")


class AdaptedGPT2(GPT2):
    """A GPT-2 with frozen weights and adapters.

    Args:
        plain: the model without adapters. lora: which maps have them.
        base: flat buffer of the layout of ``plain``; never written to.
    """

    def __init__(self, plain: GPT2, lora: LoraConfig, base: Array) -> None:
        self.plain, self.lora, self.base = plain, lora, base
        self.rank, self.low_rank = lora.rank, lora.alpha / lora.rank
        super().__init__(plain.config, plain.n_vocab)
        whole = TABLES if lora.embeddings else ()
        adapters = [f"{m}_{part}" for m in MAPS for part in ("down", "up")]
        trained = [s for s in self.specs if s.field in (*whole, *adapters) and s.size]
        self.layout = FlatLayout(tuple(trained))
        self._bases = {base.dtype: plain.params(base)}

    def make_specs(self) -> tuple[ParamSpec, ...]:
        return gpt2_specs(self.config, self.n_vocab, self.rank, self.lora.maps)

    @property
    def frozen_size(self) -> int:
        return self.plain.layout.size

    def params(self, buffer: Array) -> Params:
        if buffer.dtype not in self._bases:  # a gradient check's
            self._bases[buffer.dtype] = self.plain.params(self.base.astype(buffer.dtype))
        return self._bases[buffer.dtype]._replace(**self._trained(buffer))

    def gradients(self, buffer: Array) -> Params:
        empty = {}
        for spec in self.specs:
            shape = list(spec.shape)
            shape[1 if spec.stacked else 0] = 0
            empty[spec.field] = np.zeros(shape, buffer.dtype)
        return Params(**empty | self._trained(buffer))

    def _trained(self, buffer: Array) -> dict[str, Array]:
        fields = [spec.field for spec in self.layout.specs]
        return dict(zip(fields, self.layout.views(buffer), strict=True))

    def initialise(self, buffer: Array, seed: int) -> None:
        """Adapters that change nothing yet; embeddings as they are."""
        super().initialise(buffer, seed)
        frozen = self.plain.params(self.base)
        for field, view in self._trained(buffer).items():
            if field in TABLES:
                view[...] = getattr(frozen, field)

    def merged_params(self, params: Params) -> Params:
        """``params`` with the adapters folded into the maps, as the plain model takes them."""
        maps = {}
        for name in MAPS:
            weight, a, b = (getattr(params, f"{name}_{part}") for part in ("w", "down", "up"))
            added = b.astype(np.float64) @ a.astype(np.float64) if a.size else 0.0
            maps[f"{name}_w"] = (weight + self.low_rank * added).astype(weight.dtype, copy=False)
        return params._replace(**maps)

    def merged(self, buffer: Array) -> Array:
        """Flat weights of the plain model that does what this one does with ``buffer``."""
        params = self.merged_params(self.params(buffer))
        weights = self.plain.layout.allocate(buffer.dtype)
        views = self.plain.layout.views(weights)
        for spec, view in zip(self.plain.specs, views, strict=True):
            if spec.size:
                view[...] = getattr(params, spec.field)
        return weights

    def decoder(self, params: Any, capacity: int, workers: Workers) -> GPT2Decoder:
        return GPT2Decoder(self, self.merged_params(params), capacity, workers)

    def decoder_bytes(self, n_sequences: int) -> int:
        return super().decoder_bytes(n_sequences) + 4 * self.plain.layout.size

    def operations(
        self, n_sequences: int, n_time: int, terms: LogitTerms = NO_TERMS
    ) -> list[Operation]:
        raise ConfigError(
            "plans and profiles know no adapters; take the section lora out, and see what the "
            "whole model takes"
        )

    def flops_per_token(self, n_time: int) -> float:
        trained = {spec.field for spec in self.layout.specs}
        products = {*(f"{name}_w" for name in MAPS), *TABLES}
        frozen = sum(s.size for s in self.specs if s.field in products - trained)
        adapters = sum(s.size for s in self.layout.specs if s.field not in TABLES)
        return self.plain.flops_per_token(n_time) - 2.0 * frozen + 6.0 * adapters


def adapt(model: Model, lora: LoraConfig, base: Array) -> AdaptedGPT2:
    """``model`` with the weights ``base`` frozen, and adapters to train.

    Raises:
        ConfigError: it takes none, or one would be no smaller than its map.
    """
    if not isinstance(model, GPT2):
        raise ConfigError(f"model '{model.name}' takes no adapters; lora needs model 'gpt2'")
    width = model.config.n_embd
    if lora.rank > width:
        raise ConfigError(
            f"lora.rank {lora.rank} is above n_embd {width}, so that adapters would be larger than "
            f"what they adapt; at most {max(1, math.isqrt(width))} is usual here"
        )
    return AdaptedGPT2(model, lora, base)
