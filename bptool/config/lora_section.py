"""The section on low-rank adapters that are trained in place of a model's own weights."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bptool.config.section import Section

Target = Literal["attention", "mlp", "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
GROUPS: dict[str, tuple[str, ...]] = {
    "attention": ("attn.c_attn", "attn.c_proj"),
    "mlp": ("mlp.c_fc", "mlp.c_proj"),
}


class LoraConfig(Section):
    """Low-rank adapters (LoRA): which linear maps have one, and of what size."""

    rank: int = Field(8, ge=1, le=4096, description="rows of A and columns of B in W + s B A")
    alpha: float = Field(16.0, gt=0, le=1e6, description="s is alpha / rank")
    targets: list[Target] = Field(
        default=["attention", "mlp"],
        min_length=1,
        description="maps of every layer: attention (attn.c_attn and attn.c_proj), mlp (mlp.c_fc "
        "and mlp.c_proj), or one of these four",
    )
    embeddings: bool = Field(
        default=False,
        description="train the embeddings and output weights too, whole; new tokens need it, so "
        "`bptool finetune sft` sets it where a template adds some",
    )

    @property
    def maps(self) -> frozenset[str]:
        """The names of the maps."""
        return frozenset(name for target in self.targets for name in GROUPS.get(target, (target,)))
