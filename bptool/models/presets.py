"""Transformers by name: each says where it differs from GPT-2, and what its checkpoints name."""

from __future__ import annotations

from typing import Any

from bptool.models.transformer import Transformer
from bptool.models.transformer_config import GPT2_NAMES, LLAMA_NAMES, preset
from bptool.registry import models

GPT2Config = preset("GPT2Config", "Size and options of a GPT-2.", GPT2_NAMES)
_LLAMA: dict[str, Any] = {
    "norm": "rmsnorm",
    "positions": "rotary",
    "mlp": "gated",
    "activation": "silu",
    "bias": False,
    "tie_embeddings": False,
}
LlamaConfig = preset("LlamaConfig", "Size and options of a Llama.", LLAMA_NAMES, **_LLAMA)
_QWEN: dict[str, Any] = {**_LLAMA, "norm_epsilon": 1e-6, "rotary_base": 1e6}
Qwen2Config = preset(
    "Qwen2Config", "Size and options of a Qwen2.", LLAMA_NAMES, **_QWEN | {"bias": ["qkv"]}
)
Qwen3Config = preset(
    "Qwen3Config", "Size and options of a Qwen3.", LLAMA_NAMES, **_QWEN | {"qk_norm": True}
)


@models.register("gpt2")
class GPT2(Transformer):
    """Radford et al. 2019, "Language models are unsupervised multitask learners"."""

    Config = GPT2Config


@models.register("llama")
class Llama(Transformer):
    """Touvron et al. 2023, arXiv:2302.13971; with ``n_kv_head`` arXiv:2307.09288."""

    Config = LlamaConfig


@models.register("qwen2")
class Qwen2(Transformer):
    """Yang et al. 2024, arXiv:2407.10671, section 2."""

    Config = Qwen2Config


@models.register("qwen3")
class Qwen3(Transformer):
    """Yang et al. 2025, arXiv:2505.09388, section 2."""

    Config = Qwen3Config
