"""The section on low-rank adapters that are trained in place of a model's own weights."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bptool.config.section import Section

Target = Literal[
    "attention",
    "mlp",
    "qkv",
    "proj",
    "up",
    "down",
    "attn.c_attn",
    "attn.c_proj",
    "mlp.c_fc",
    "mlp.c_proj",
]
SITES: dict[str, tuple[str, ...]] = {
    "attention": ("qkv", "proj"),
    "mlp": ("up", "down"),
    "attn.c_attn": ("qkv",),
    "attn.c_proj": ("proj",),
    "mlp.c_fc": ("up",),
    "mlp.c_proj": ("down",),
}
"""The linear maps that a name stands for, where it is not that of one; GPT-2's own names too."""


class LoraConfig(Section):
    """Low-rank adapters (LoRA): which linear maps have one, and of what size."""

    rank: int = Field(8, ge=1, le=4096, description="rows of A and columns of B in W + s B A")
    alpha: float = Field(16.0, gt=0, le=1e6, description="s is alpha / rank")
    targets: list[Target] = Field(
        default=["attention", "mlp"],
        min_length=1,
        description="maps of every layer: attention (qkv and proj), mlp (up and down), or one of "
        "these four, which GPT-2 calls attn.c_attn, attn.c_proj, mlp.c_fc and mlp.c_proj",
    )
    embeddings: bool = Field(
        default=False,
        description="train the embeddings and output weights too, whole; new tokens need it, so "
        "`bptool finetune sft` sets it where a template adds some",
    )

    @property
    def sites(self) -> frozenset[str]:
        """The linear maps of a layer that have adapters."""
        return frozenset(name for target in self.targets for name in SITES.get(target, (target,)))
