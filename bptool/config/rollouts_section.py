"""The section on answers that are sampled while a model is trained on their rewards."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bptool.config.section import FILE, AtResume, Section


class RolloutsConfig(Section):
    """How answers are sampled, what rewards them, and what holds the model to its reference."""

    reward: Annotated[str, FILE, AtResume.CONTENT] = Field(
        min_length=1,
        description="what rewards an answer: the folder of a run of `bptool finetune reward`, or a "
        "Python file with `reward(prompt, answer) -> float`",
    )
    prompts: int = Field(32, ge=1, le=100_000, description="prompts of a step")
    answers: int = Field(1, ge=1, le=1024, description="answers to each prompt")
    max_tokens: int = Field(64, ge=1, le=65536, description="longest answer, its end included")
    updates: int = Field(2, ge=1, le=64, description="updates on the answers of one step")
    end_penalty: float = Field(
        1.0,
        ge=0,
        le=1e4,
        description="taken off the reward of an answer that does not end by itself; in deviations "
        "of the rewards where ppo normalises them",
    )
    normalise: bool = Field(
        True,
        description="give the rewards of a step mean 0 and deviation 1 in ppo, whatever scale and "
        "offset the reward model has; grpo does so within groups",
    )
    kl_weight: float = Field(
        0.2,
        ge=0,
        le=1e4,
        description="weight of the KL divergence from the reference in ppo's rewards; grpo has its "
        "own in `objective`",
    )
    kl_target: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        None,
        description="nats an answer that `kl_weight` is adapted to reach; null: it stays as it is",
    )
    kl_estimator: Literal["k1", "k3"] = Field(
        "k1", description="Schulman's estimators: k1 log(pi / ref); k3 ref / pi - 1 + log(pi / ref)"
    )
    gamma: float = Field(1.0, gt=0, le=1, description="discount of later rewards, in ppo")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="of advantage estimation, in ppo")
    whiten: bool = Field(True, description="give ppo's advantages mean 0 and deviation 1")
    mix_weight: float = Field(
        0.0, ge=0, le=1e4, description="weight of the loss of the next token on `mix_text`, in ppo"
    )
    mix_text: Annotated[list[str], FILE, AtResume.CONTENT] = Field(
        default_factory=list, description="text files of the pretraining mix"
    )
