"""What a configuration says of a GPT-2: its size, and what is dropped from it in training."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from bptool.config.section import Section
from bptool.ops.stochastic_depth import RULES


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


class GPT2Config(Section):
    """Size and options of a GPT-2."""

    n_layer: int = Field(4, ge=1, le=1000, description="transformer blocks")
    n_head: int = Field(4, ge=1, le=1024, description="attention heads; must divide n_embd")
    n_embd: int = Field(128, ge=1, le=65536, description="width of the residual stream")
    context: int = Field(64, ge=1, le=1_000_000, description="longest sequence, in tokens")
    bias: bool = Field(True, description="biases in linear maps and norms")
    activation: Literal["gelu", "gelu_tanh", "relu"] = Field("gelu", description="of the MLP")
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
    def _check(self) -> GPT2Config:
        if self.n_embd % self.n_head:
            near = [h for h in range(1, self.n_embd + 1) if self.n_embd % h == 0]
            best = min(near, key=lambda h: abs(h - self.n_head))
            raise ValueError(
                f"n_head {self.n_head} does not divide n_embd {self.n_embd}; "
                f"n_head {best} would, or n_embd {self.n_head * -(-self.n_embd // self.n_head)}"
            )
        return self

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
