"""The table of a transformer's sites, and every variant against autograd and differences."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from bptool.config.lora_section import LoraConfig
from bptool.gradient_check.check import Effort, check
from bptool.gradient_check.model import draw_batch, draw_weights, model_function
from bptool.models.lora import leaves
from bptool.models.presets import GPT2, GPT2Config, Llama, LlamaConfig
from bptool.models.transformer import Transformer
from bptool.ops.dropout import MaskKey
from bptool.ops.matmul import tiled_engine
from bptool.registry import models

N_VOCAB = 11
SIZE = {"n_layer": 2, "n_head": 2, "n_embd": 8, "context": 4}
OF_GPT2 = [
    ("wte.weight", (11, 8), 0.02, 0),
    ("wpe.weight", (4, 8), 0.02, 96),
    ("h.{}.ln_1.weight", (2, 8), 1.0, 1664),
    ("h.{}.ln_1.bias", (2, 8), 0.0, 1680),
    ("h.{}.attn.c_attn.weight", (2, 24, 8), 0.02, 128),
    ("h.{}.attn.c_attn.bias", (2, 24), 0.0, 1696),
    ("h.{}.attn.c_proj.weight", (2, 8, 8), 0.01, 512),
    ("h.{}.attn.c_proj.bias", (2, 8), 0.0, 1744),
    ("h.{}.ln_2.weight", (2, 8), 1.0, 1760),
    ("h.{}.ln_2.bias", (2, 8), 0.0, 1776),
    ("h.{}.mlp.c_fc.weight", (2, 32, 8), 0.02, 640),
    ("h.{}.mlp.c_fc.bias", (2, 32), 0.0, 1792),
    ("h.{}.mlp.c_proj.weight", (2, 8, 32), 0.01, 1152),
    ("h.{}.mlp.c_proj.bias", (2, 8), 0.0, 1856),
    ("ln_f.weight", (8,), 1.0, 1872),
    ("ln_f.bias", (8,), 0.0, 1888),
]
"""Name, shape, initial size and place of the tensors of a small GPT-2, as they have always been."""


def described(model: Any) -> list[tuple[str, tuple[int, ...], float, int]]:
    offsets = model.layout.offsets
    return [(s.name, s.shape, s.init, offsets[s.field]) for s in model.layout.specs if s.size]


def test_gpt2_keeps_its_tensors_and_their_places() -> None:
    model = GPT2(GPT2Config(**SIZE), N_VOCAB)
    assert described(model) == OF_GPT2
    assert (model.layout.size, model.layout.n_decayed) == (1904, 1664)
    decayed = [s.name for s in model.specs if s.decay and s.size]
    assert decayed == [name for name, shape, _, start in OF_GPT2 if start < 1664]
    assert {s.name for s in model.specs if s.table and s.size} == {"wte.weight", "wpe.weight"}
    untied = {"bias": False, "tie_embeddings": False, "score_head": True}
    other = GPT2(GPT2Config(**SIZE, **untied), N_VOCAB)
    assert described(other)[-3:] == [
        ("lm_head.weight", (11, 8), 0.02, 1664),
        ("score.weight", (8,), 0.0, 1760),
        ("score.bias", (1,), 0.0, 1824),
    ]
    assert (other.layout.size, other.layout.n_decayed) == (1840, 1776)
    lora = LoraConfig(rank=2, targets=["attn.c_attn", "down"])
    adapted = model.adapted(lora, model.layout.allocate(np.float32))
    assert described(adapted) == [
        ("h.{}.attn.c_attn.lora_a", (2, 2, 8), 8**-0.5, 0),
        ("h.{}.attn.c_attn.lora_b", (2, 24, 2), 0.0, 32),
        ("h.{}.mlp.c_proj.lora_a", (2, 2, 32), 32**-0.5, 128),
        ("h.{}.mlp.c_proj.lora_b", (2, 8, 2), 0.0, 256),
    ]


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "qwen3", "mlp"])
def test_every_gradient_is_cleared_or_stored(name: str) -> None:
    """Tensors without elements begin where another one does, which must not take it along."""
    model = models.get(name)(models.get(name).Config(n_layer=2, n_embd=8), N_VOCAB)
    weights, gradient = model.layout.allocate(np.float64), model.layout.allocate(np.float64)
    model.initialise(weights, 1)
    tokens, targets = draw_batch(N_VOCAB, 2, 5, 1)
    acts = model.workspace(2, 5, np.float64, tiled_engine(np.float64))
    found = []
    for start in (0.0, 7.0):
        gradient[:] = start
        for span in model.layout.spans_without(model.stored):
            gradient[span] = 0.0
        model.loss_and_gradient(
            *(model.params(weights), model.gradients(gradient), acts, tokens, targets, 0.1),
            MaskKey(0, 0, 0),
            adds=False,
        )
        found.append({key: g.copy() for key, g in model.layout.named(gradient).items()})
    for key, g in found[0].items():
        assert np.array_equal(found[1][key], g), key


def test_gpt2_keeps_its_activations() -> None:
    """As many numbers as when they were written out by hand, in the shapes of then."""
    n, c, f, n_layer, r = 12, 8, 32, 2, 5
    config = GPT2Config(**SIZE)
    model = GPT2(config, N_VOCAB).adapted(LoraConfig(rank=r), np.zeros(1904, np.float32))
    found = model.shapes(3, 4, 2)  # type: ignore[attr-defined]
    assert sum(math.prod(found[f"norm_{i}_y"]) for i in "12f") == (2 * n_layer + 1) * n * c
    assert sum(math.prod(found[f"norm_{i}_rstd"]) for i in "12f") == (2 * n_layer + 1) * n
    assert {k: found[k] for k in ("x", "qkv_y", "attention_row_stats", "up_y", "hidden_slope")} == {
        "x": (2 * n_layer + 1, n, c),
        "qkv_y": (n_layer, n, 3 * c),
        "attention_row_stats": (n_layer, 3, 2, 4, 2),
        "up_y": (1, n, f),
        "hidden_slope": (n_layer, n, f),
    }
    assert sum(map(math.prod, found.values())) == 6_996
    acts = model.workspace(3, 4, np.float32, tiled_engine(np.float32)).acts
    assert np.shares_memory(acts.blocks.proj.y, acts.blocks.down.y)
    assert acts.dattention is acts.dnorm


def test_tensors_of_a_llama_have_their_published_names() -> None:
    size = {"n_layer": 1, "n_head": 4, "n_kv_head": 2, "n_embd": 8, "n_hidden": 6, "context": 4}
    model = Llama(LlamaConfig(**size), N_VOCAB)
    layer = "model.layers.0"
    assert {p.name: p.shape for p in model.layout.places()} == {
        "model.embed_tokens.weight": (11, 8),
        f"{layer}.input_layernorm.weight": (8,),
        f"{layer}.self_attn.q_proj.weight": (8, 8),
        f"{layer}.self_attn.k_proj.weight": (4, 8),
        f"{layer}.self_attn.v_proj.weight": (4, 8),
        f"{layer}.self_attn.o_proj.weight": (8, 8),
        f"{layer}.post_attention_layernorm.weight": (8,),
        f"{layer}.mlp.gate_proj.weight": (6, 8),
        f"{layer}.mlp.up_proj.weight": (6, 8),
        f"{layer}.mlp.down_proj.weight": (8, 6),
        "model.norm.weight": (8,),
        "lm_head.weight": (11, 8),
    }
    weights = model.layout.allocate(np.float32)
    weights[:] = np.arange(weights.size)
    named = model.layout.named(weights)
    parts = [named[f"{layer}.self_attn.{name}_proj.weight"] for name in "qkv"]
    assert np.array_equal(np.concatenate(parts), model.params(weights).blocks.qkv.w[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_head": 4, "n_kv_head": 3}, "does not divide n_head 4; 2 would"),
        ({"n_head": 2, "n_embd": 6}, "heads of even width, not 3; try head_dim 4"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LlamaConfig(**settings)


VARIANTS: dict[str, tuple[Any, ...]] = {
    "norm": ("layernorm", "rmsnorm"),
    "positions": ("learned", "rotary"),
    "mlp": ("plain", "gated"),
    "activation": ("gelu", "gelu_tanh", "relu", "silu"),
    "n_kv_head": (None, 2, 1),
    "head_dim": (None, 6),
    "bias": (True, False, ["qkv"], ["proj", "mlp"]),
    "qk_norm": (False, True),
    "tie_embeddings": (True, False),
}
PRESETS = ("gpt2", "llama", "qwen2", "qwen3")
SMALL = {"n_layer": 2, "n_head": 4, "n_embd": 8, "context": 5}


def covering() -> list[dict[str, Any]]:
    """Variants among which every pair of settings stands at least once, those of presets first."""
    rows: list[dict[str, Any]] = []
    for name in PRESETS:
        config = models.get(name).Config()
        rows.append({key: getattr(config, key) for key in VARIANTS})
    rng = random.Random(0)

    def pairs(row: dict[str, Any]) -> set[str]:
        return {repr(pair) for pair in itertools.combinations(row.items(), 2)}

    wanted = {
        repr(((a, x), (b, y)))
        for a, b in itertools.combinations(VARIANTS, 2)
        for x in VARIANTS[a]
        for y in VARIANTS[b]
    }
    wanted -= set().union(*map(pairs, rows))
    while wanted:
        drawn = [{k: rng.choice(v) for k, v in VARIANTS.items()} for _ in range(200)]
        best = max(drawn, key=lambda row: len(pairs(row) & wanted))
        wanted -= pairs(best)
        rows.append(best)
    return rows


def described_in_short(variant: dict[str, Any]) -> str:
    return "-".join(map(str, variant.values()))


COVERING = covering()


@pytest.mark.parametrize("variant", COVERING, ids=described_in_short)
def test_every_pair_of_settings_has_the_gradient_it_claims(variant: dict[str, Any]) -> None:
    drop = {"embedding": 0.1, "attention": 0.2, "residual": 0.25, "hidden": 0.3}
    config = GPT2Config(**SMALL, **variant, dropout=drop)
    function = model_function(GPT2(config, N_VOCAB), n_sequences=2)
    report = check(function, effort=Effort(3, 2))
    assert report.ok, report.failures()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-10)])
@pytest.mark.parametrize("variant", COVERING[:12], ids=described_in_short)
def test_gradients_equal_autograd(variant: dict[str, Any], dtype: str, tolerance: float) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed; see CONTRIBUTING.md")
    import torch_models

    config = LlamaConfig(**SMALL | variant | {"context": 16, "rotary_base": 50.0})
    model = Llama(config, N_VOCAB)
    weights, gradient = draw_weights(model, 1).astype(dtype), model.layout.allocate(dtype)
    tokens, targets = draw_batch(N_VOCAB, 3, 16, 5)
    n_targets = int((targets >= 0).sum())
    acts = model.workspace(3, 16, dtype, tiled_engine(dtype))
    found = model.loss_and_gradient(
        *(model.params(weights), model.gradients(gradient), acts, tokens, targets),
        *(1 / n_targets, MaskKey(0, 0, 0)),
    )
    named = model.layout.named(weights)
    exact = {name: tensor.astype(np.float64) for name, tensor in named.items()}
    loss, want = torch_models.loss_and_gradients(
        torch_models.transformer_logits, config, exact, tokens, targets
    )
    assert found.loss == pytest.approx(loss, rel=tolerance)
    ours = model.layout.named(gradient)
    assert ours.keys() == want.keys()
    whole = math.sqrt(sum(float(np.sum(g**2)) for g in want.values()))
    for name, g in want.items():
        error = np.linalg.norm(ours[name] - g)
        assert error <= tolerance * max(np.linalg.norm(g), 1e-3 * whole), name


def test_all_variants_have_one_type() -> None:
    """So that a new variant compiles nothing."""
    types = set()
    for row in COVERING:
        model: Transformer = GPT2(GPT2Config(**SMALL, **row), N_VOCAB)
        acts = model.workspace(2, 4, np.float32, tiled_engine(np.float32)).acts
        trees = (model.params(model.layout.allocate(np.float32)), acts)
        arrays = [array for tree in trees for array in leaves(tree)]
        types.add(tuple((a.ndim, a.flags.c_contiguous) for a in arrays))
    assert len(types) == 1
