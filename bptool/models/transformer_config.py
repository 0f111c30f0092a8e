"""What a configuration says of a transformer: its size, its variant, and what training drops."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, create_model, model_validator

from bptool.config.section import Section, refuse
from bptool.ops.stochastic_depth import RULES

BiasKind = Literal["norm", "qkv", "proj", "mlp"]
BIAS_KINDS: tuple[BiasKind, ...] = ("norm", "qkv", "proj", "mlp")
HIDDEN_MULTIPLE = 32
"""Of the default inner width of a gated MLP, which 8 / 3 of the width is rounded up to."""


class Dropout(NamedTuple):
    """Probabilities by site, as compiled code takes them."""

    embedding: float
    attention: float
    residual: float
    hidden: float


class Depth(NamedTuple):
    """Stochastic depth as compiled code takes it: the last layer's rate, and a rule's number."""

    rate: float
    rule: int


NO_DROPOUT = Dropout(0.0, 0.0, 0.0, 0.0)
NO_DEPTH = Depth(0.0, RULES["uniform"])


class DropoutSites(Section):
    """Dropout probability at each place of a transformer."""

    embedding: float = Field(0.0, ge=0, lt=1, description="after the embeddings")
    attention: float = Field(0.0, ge=0, lt=1, description="on the attention weights")
    residual: float = Field(0.0, ge=0, lt=1, description="on each branch before it is added")
    hidden: float = Field(0.0, ge=0, lt=1, description="after the activation of the MLP")


class StochasticDepth(Section):
    """Which residual branches are left out of a sequence."""

    rate: float = Field(0.0, ge=0, lt=1, description="probability at the last layer")
    rule: Literal["linear", "uniform"] = Field(
        "linear",
        description="linear: layer l of L, from 1, has l / L of the rate; uniform: every layer "
        "has all of it",
    )


GPT2_NAMES: Mapping[str, str] = {
    "tokens": "wte",
    "positions": "wpe",
    "norm_1": "h.{}.ln_1",
    "qkv": "h.{}.attn.c_attn",
    "q_norm": "h.{}.attn.q_norm",
    "k_norm": "h.{}.attn.k_norm",
    "proj": "h.{}.attn.c_proj",
    "norm_2": "h.{}.ln_2",
    "up": "h.{}.mlp.c_fc",
    "down": "h.{}.mlp.c_proj",
    "norm_f": "ln_f",
    "head": "lm_head",
    "score": "score",
}
"""Names in checkpoints of what the table of sites lists, as in the published weights of GPT-2."""
_LAYER = "model.layers.{}"
LLAMA_NAMES: Mapping[str, str] = {
    "tokens": "model.embed_tokens",
    "positions": "model.embed_positions",
    "norm_1": f"{_LAYER}.input_layernorm",
    "qkv": f"{_LAYER}.self_attn.qkv_proj",
    "q": f"{_LAYER}.self_attn.q_proj",
    "k": f"{_LAYER}.self_attn.k_proj",
    "v": f"{_LAYER}.self_attn.v_proj",
    "q_norm": f"{_LAYER}.self_attn.q_norm",
    "k_norm": f"{_LAYER}.self_attn.k_norm",
    "proj": f"{_LAYER}.self_attn.o_proj",
    "norm_2": f"{_LAYER}.post_attention_layernorm",
    "up": f"{_LAYER}.mlp.up_proj",
    "gate": f"{_LAYER}.mlp.gate_proj",
    "down": f"{_LAYER}.mlp.down_proj",
    "norm_f": "model.norm",
    "head": "lm_head",
    "score": "score",
}
"""The same for Llama and its kin in the format of Hugging Face, with q, k and v apart, and the gate
and what it gates."""


class TransformerConfig(Section):
    """Size and variant of a transformer; the defaults are GPT-2's."""

    names: ClassVar[Mapping[str, str]] = GPT2_NAMES

    n_layer: int = Field(4, ge=1, le=1000, description="transformer blocks")
    n_head: int = Field(4, ge=1, le=1024, description="attention heads; must divide n_embd")
    n_kv_head: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None,
        description="heads of keys and values, each shared by as many heads of queries; must "
        "divide n_head; null: as many as n_head",
    )
    head_dim: Annotated[int, Field(ge=1, le=65536)] | None = Field(
        None, description="width of a head; null: n_embd / n_head"
    )
    n_embd: int = Field(128, ge=1, le=65536, description="width of the residual stream")
    n_hidden: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None,
        description="inner width of the MLP; null: 4 n_embd, or where it is gated 8/3 n_embd "
        f"rounded up to a multiple of {HIDDEN_MULTIPLE}",
    )
    context: int = Field(64, ge=1, le=1_000_000, description="longest sequence, in tokens")
    norm: Literal["layernorm", "rmsnorm"] = Field(
        "layernorm", description="normalization before each branch and the output"
    )
    norm_epsilon: float = Field(
        1e-5, gt=0, le=0.1, description="added to the mean square by rmsnorm; layernorm adds 1e-5"
    )
    qk_norm: bool = Field(False, description="rmsnorm of each head of queries and keys")
    positions: Literal["learned", "rotary"] = Field(
        "learned",
        description="learned: an embedding of each position; rotary: queries and keys turned by "
        "their position",
    )
    rotary_base: float = Field(
        10000.0, gt=1, le=1e12, description="base of the angles of rotary positions"
    )
    mlp: Literal["plain", "gated"] = Field(
        "plain", description="plain: f(W x); gated: f(G x) times W x, element by element"
    )
    activation: Literal["gelu", "gelu_tanh", "relu", "silu"] = Field(
        "gelu", description="f of the MLP"
    )
    bias: bool | list[BiasKind] = Field(
        True,
        description="biases in linear maps and layer norms, or a list of where: norm, qkv "
        "(queries, keys and values), proj (attention output), mlp; an rmsnorm has none",
    )
    init_std: float = Field(
        0.02,
        gt=0,
        le=10,
        description="standard deviation of initial weights; a width of 128 learnt faster from 0.05",
    )
    position_init: Literal["normal", "sinusoidal"] = Field(
        "normal",
        description="where the learned positions start: at random, or at sines and cosines, "
        "from which neighbours are told apart at once",
    )
    tie_embeddings: bool = Field(True, description="use the token embedding as output weights")
    score_head: bool = Field(
        False,
        description="a scalar beside the logits of every position, which reward models and value "
        "functions read; pretraining has no use for it",
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] | DropoutSites = Field(
        0.0,
        description="one probability for GPT-2's own places (embedding, attention, residual), or a "
        "section with one for each",
    )
    stochastic_depth: Annotated[float, Field(ge=0, lt=1)] | StochasticDepth = Field(
        0.0,
        description="probability that the last layer's branches are left out of a sequence, less "
        "for the layers before it; or a section",
    )

    @model_validator(mode="after")
    def _check(self) -> TransformerConfig:
        if self.head_dim is None and self.n_embd % self.n_head:
            near = [h for h in range(1, self.n_embd + 1) if self.n_embd % h == 0]
            best = min(near, key=lambda h: abs(h - self.n_head))
            raise ValueError(
                f"n_head {self.n_head} does not divide n_embd {self.n_embd}; "
                f"n_head {best} would, or n_embd {self.n_head * -(-self.n_embd // self.n_head)}"
            )
        if self.n_head % self.kv_heads:
            near = [h for h in range(1, self.n_head + 1) if self.n_head % h == 0]
            best = min(near, key=lambda h: abs(h - self.kv_heads))
            message = f"does not divide n_head {self.n_head}; {best} would"
            refuse("n_kv_head", self.n_kv_head, message)
        if self.positions == "rotary" and self.head_width % 2:
            width = self.head_width
            message = f"rotary positions need heads of even width, not {width}; try head_dim "
            refuse("positions", self.positions, f"{message}{width + 1}")
        return self

    @property
    def kv_heads(self) -> int:
        """Heads of keys and of values."""
        return self.n_head if self.n_kv_head is None else self.n_kv_head

    @property
    def head_width(self) -> int:
        """Width of a head."""
        return self.n_embd // self.n_head if self.head_dim is None else self.head_dim

    @property
    def hidden_width(self) -> int:
        """Inner width of the MLP."""
        if self.n_hidden is not None:
            return self.n_hidden
        if self.mlp == "plain":
            return 4 * self.n_embd
        return -(-8 * self.n_embd // (3 * HIDDEN_MULTIPLE)) * HIDDEN_MULTIPLE

    def has_bias(self, kind: BiasKind) -> bool:
        """Whether what is of ``kind`` has biases."""
        if kind == "norm" and self.norm == "rmsnorm":
            return False
        return self.bias if isinstance(self.bias, bool) else kind in self.bias

    def dropout_sites(self) -> Dropout:
        """The probability at each site."""
        if isinstance(self.dropout, DropoutSites):
            return Dropout(**self.dropout.model_dump())
        return Dropout(self.dropout, self.dropout, self.dropout, 0.0)

    def depth(self) -> Depth:
        """Stochastic depth as compiled code takes it."""
        given = self.stochastic_depth
        found = given if isinstance(given, StochasticDepth) else StochasticDepth(rate=given)
        return Depth(found.rate, RULES[found.rule])


def preset(
    name: str, doc: str, names: Mapping[str, str], **defaults: Any
) -> type[TransformerConfig]:
    """A :class:`TransformerConfig` with other defaults, and other names in checkpoints."""
    fields: dict[str, Any] = {}
    for key, value in defaults.items():
        field = copy.copy(TransformerConfig.model_fields[key])
        field.default = value
        fields[key] = (field.annotation, field)
    made = create_model(name, __base__=TransformerConfig, __doc__=doc, **fields)
    made.names = names
    return made
