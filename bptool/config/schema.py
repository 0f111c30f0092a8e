"""The whole configuration of a run, section by section, with bounds and descriptions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from bptool.config import data_section
from bptool.config.choice import Choice, ChoiceFrom, fill_choices
from bptool.config.data_section import SplitConfig
from bptool.config.lora_section import LoraConfig
from bptool.config.rollouts_section import RolloutsConfig
from bptool.config.section import FILE, AtResume, Section, refuse
from bptool.errors import ConfigError
from bptool.registry import (
    averages,
    models,
    objectives,
    optimizers,
    regularizers,
    schedules,
    templates,
    tokenizers,
)

__all__ = [
    "Choice",
    "DataConfig",
    "RunConfig",
    "SampleConfig",
    "Section",
    "SplitConfig",
    "TrainingConfig",
    "json_schema",
]

EVALUATIONS_PER_RUN = 10
CLIPPING = ("clip_norm", "clip_value", "clip_adaptive")
MAX_SEED = 2**63 - 1
SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"

MODEL = ChoiceFrom(models)
TOKENIZER = ChoiceFrom(tokenizers, default="char")
OPTIMIZER = ChoiceFrom(optimizers, default="adamw", only_trains=True)
SCHEDULE = ChoiceFrom(schedules, default="constant", only_trains=True)
REGULARIZER = ChoiceFrom(regularizers, only_trains=True)
AVERAGE = ChoiceFrom(averages, default="none", only_trains=True)
OBJECTIVE = ChoiceFrom(objectives, default="next-token", only_trains=True)

ModelChoice = Annotated[Choice, MODEL]
TokenizerChoice = Annotated[Choice, TOKENIZER]
OptimizerChoice = Annotated[Choice, OPTIMIZER]
ScheduleChoice = Annotated[Choice, SCHEDULE]
RegularizerChoice = Annotated[Choice, REGULARIZER]
AverageChoice = Annotated[Choice, AVERAGE]
ObjectiveChoice = Annotated[Choice, OBJECTIVE]

Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Steps = Annotated[int, Field(ge=1, le=10**9)]
Tokens = Annotated[int, Field(ge=1, le=10**12)]
Rows = Annotated[int, Field(ge=1, le=10**7)]
Threads = Annotated[int, Field(ge=1, le=1024)]


class DataConfig(data_section.DataConfig):
    """Text files, tokenizer, split, and the way batches are drawn."""

    tokenizer: TokenizerChoice = Field(
        default="char", validate_default=True, description="how the text becomes tokens"
    )

    @field_validator("text", mode="after")
    @classmethod
    def _texts_have_names(cls, value: list[str]) -> list[str]:
        if not all(value):
            raise ValueError("found an empty name, need the path of a text file")
        return value


class EarlyStopping(Section):
    """When training stops before its last step."""

    patience: int = Field(
        default=5,
        ge=1,
        le=10**6,
        description="evaluations in a row without an improvement after which training stops",
    )
    standard_errors: float = Field(
        default=2.0,
        ge=0,
        le=100,
        description="an improvement of the validation loss counts if it is larger than so many "
        "standard errors of the difference",
    )
    min_improvement: float = Field(
        default=0.0, ge=0, le=100, description="and larger than this, in nats per token"
    )


class Spikes(Section):
    """What is done about steps whose loss stands out; see the first lines of
    ``training/spikes.py``."""

    then: Literal["skip", "rollback"] = Field(
        default="skip",
        description="skip: leave the step's update out; rollback: go back to the last checkpoint "
        "and on with a smaller learning rate",
    )
    standard_deviations: float = Field(
        default=6.0, gt=0, le=1e6, description="a loss so many above the mean of those before"
    )
    over: int = Field(default=100, ge=4, le=10**5, description="steps that mean is of")
    rate_factor: float = Field(
        default=0.5, gt=0, le=1, description="what a rollback multiplies the learning rate by"
    )
    max_rollbacks: Annotated[int, AtResume.NO_WEIGHT] = Field(
        default=3, ge=1, le=1000, description="after so many, another spike ends the run"
    )


class TrainingConfig(Section):
    """How long, how fast and on what terms the model is trained."""

    steps: Annotated[Steps, AtResume.LENGTH] = Field(description="optimizer updates")
    batch_size: Rows | Literal["full"] = Field(
        description="sequences that one update sees; full: every window of the training split"
    )
    micro_batch_size: Annotated[Rows | None, AtResume.ROUNDING] = Field(
        default=None,
        description="sequences held in memory at once, in gradient accumulation; "
        "null: the whole batch",
    )
    seed: Seed = Field(default=0, description="initial weights, dropout and samples")
    data_seed: Seed = Field(
        default_factory=lambda data: data.get("seed", 0),
        description="the order of the data; as seed when left out",
    )
    workers: Annotated[Threads | Literal["auto"], AtResume.ROUNDING] = Field(
        default="auto", description="threads that train; auto: one a core"
    )
    split: Annotated[Literal["auto", "batch", "inside"], AtResume.ROUNDING] = Field(
        default="auto",
        description="how workers share a step: each its own sequences (batch), or all in every "
        "operation (inside), with one gradient; auto: inside for large models and small batches",
    )
    engine: Annotated[str, AtResume.ROUNDING] = Field(
        default="auto",
        min_length=1,
        description="what multiplies matrices: tiled (our own), blas (scipy's), mkl where it is "
        "installed, accelerate on macOS; auto: the fastest here, measured once for a machine",
    )
    clip_norm: Annotated[float, Field(gt=0, le=1e9)] | None = Field(
        default=None, description="largest norm of the whole gradient; null: any"
    )
    clip_value: Annotated[float, Field(gt=0, le=1e9)] | None = Field(
        default=None, description="largest size of an element of the gradient; null: any"
    )
    clip_adaptive: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        default=None,
        description="largest norm of a unit's gradient as a share of the norm of its weights; "
        "null: any",
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0,
        description="share of each target that is spread evenly over the vocabulary; in training "
        "only",
    )
    z_loss: Annotated[float, Field(ge=0, le=100)] = Field(
        default=0.0,
        description="what the squared logarithm of the softmax's denominator is multiplied by and "
        "added to the loss; in training only",
    )
    eval_interval: Annotated[Steps, AtResume.NO_WEIGHT] = Field(
        default_factory=lambda data: max(1, data.get("steps", 1) // EVALUATIONS_PER_RUN),
        description="updates between evaluations; a tenth of the steps when left out",
    )
    log_interval: Annotated[Steps, AtResume.NO_WEIGHT] = Field(
        default=10, description="updates between lines of the log"
    )
    checkpoint_interval: Annotated[Steps, AtResume.NO_WEIGHT] = Field(
        default_factory=lambda data: data.get("eval_interval", 1),
        description="updates between checkpoints; as eval_interval when left out",
    )
    keep_last: Annotated[int, AtResume.NO_WEIGHT] = Field(
        default=2,
        ge=1,
        le=10**6,
        description="how many of the newest checkpoints are kept, beside the best; with one, a "
        "damaged checkpoint has none before it to go back to",
    )
    keep_every: Annotated[Steps | None, AtResume.NO_WEIGHT] = Field(
        default=None,
        description="the checkpoints of every so many steps are kept too; null: none",
    )
    eval_tokens: Annotated[Tokens | None, AtResume.NO_WEIGHT] = Field(
        default=None,
        description="most validation tokens an evaluation reads; null: the whole split",
    )
    max_skipped: Annotated[int, AtResume.NO_WEIGHT] = Field(
        default=10,
        ge=1,
        le=10**6,
        description="steps in a row without a finite loss and gradient after which training stops",
    )
    spikes: Spikes | None = Field(
        default=None, description="what is done about spikes of the loss; null: nothing"
    )
    early_stopping: Annotated[EarlyStopping | None, AtResume.NO_WEIGHT] = Field(
        default=None, description="when to stop before the last step; null: never"
    )

    def is_evaluation(self, step: int) -> bool:
        """Whether the weights are evaluated after ``step``."""
        return step % self.eval_interval == 0 or step == self.steps

    def is_checkpoint(self, step: int) -> bool:
        """Whether a checkpoint is due after ``step``."""
        return self.is_evaluation(step) or step % self.checkpoint_interval == 0

    @model_validator(mode="after")
    def _micro_batches_fill_the_batch(self) -> TrainingConfig:
        batch, micro = self.batch_size, self.micro_batch_size
        if micro is not None and batch != "full" and batch % micro != 0:
            divisor = max(n for n in range(1, min(micro, batch) + 1) if batch % n == 0)
            refuse(
                "micro_batch_size",
                micro,
                f"{micro} does not divide batch_size {batch}; {divisor} would",
            )
        return self

    @model_validator(mode="after")
    def _one_way_of_clipping(self) -> TrainingConfig:
        given = [key for key in CLIPPING if getattr(self, key) is not None]
        if len(given) > 1:
            value = getattr(self, given[1])
            refuse(given[1], value, f"the gradient is clipped by {given[0]} already; keep one")
        return self


class SampleConfig(Section):
    """The text that the model writes at each evaluation, to show what it has learnt."""

    prompt: str = Field(
        default="", description="what the sample goes on from; empty: the start of a document"
    )
    max_tokens: int = Field(
        default=128, ge=0, le=10**6, description="length in tokens; 0: no sample"
    )
    temperature: float = Field(
        default=0.8, ge=0, le=100, description="0: always the likeliest token"
    )
    top_k: Annotated[int, Field(ge=1, le=10**9)] | None = Field(
        default=None, description="draw from so many likeliest tokens; null: from all"
    )


class StartConfig(Section):
    """The trained run whose model, tokenizer and weights a run starts from."""

    run: Annotated[str, FILE, AtResume.CONTENT] = Field(min_length=1, description="its folder")
    checkpoint: Annotated[Literal["best", "last"], AtResume.CONTENT] = Field(
        default="best", description="which of its weights"
    )


class ChatConfig(Section):
    """How conversations are written."""

    template: str = Field(
        default="roles", description="the marks around what each side says: roles, chatml or plain"
    )

    @field_validator("template", mode="after")
    @classmethod
    def _is_known(cls, value: str) -> str:
        try:
            templates.get(value)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return value


class RunConfig(Section):
    """Everything that decides a training run. See ``docs/design.md`` for the run folder."""

    format_version: Literal[1] = Field(default=1, description="version of this file's format")
    model: ModelChoice = Field(description="the model's kind and size")
    data: DataConfig = Field(description="text, tokenizer, split and sampling")
    training: TrainingConfig = Field(description="length, batch, seeds, intervals")
    optimizer: OptimizerChoice = Field(
        default="adamw", validate_default=True, description="the update rule"
    )
    schedule: ScheduleChoice = Field(
        default="constant",
        validate_default=True,
        description="what multiplies the learning rate at each step",
    )
    regularizers: tuple[RegularizerChoice, ...] = Field(
        default=(),
        max_length=16,
        description="penalties on weights, noise on gradients, constraints",
    )
    averaging: AverageChoice = Field(
        default="none",
        validate_default=True,
        description="an average of the weights that is evaluated beside them and kept",
    )
    start: StartConfig | None = Field(
        default=None, description="the run that this one starts from; null: new weights"
    )
    lora: LoraConfig | None = Field(
        default=None,
        description="low-rank adapters that are trained while all else is frozen; null: all "
        "weights are trained",
    )
    chat: ChatConfig | None = Field(
        default=None, description="how conversations are written; null: the model writes plain text"
    )
    objective: ObjectiveChoice = Field(
        default="next-token",
        validate_default=True,
        description="what is minimised; all but next-token need start and data.records",
    )
    rollouts: RolloutsConfig | None = Field(
        default=None, description="how ppo and grpo sample answers and what rewards them"
    )
    sample: Annotated[SampleConfig, AtResume.NO_WEIGHT] = Field(
        default_factory=lambda: SampleConfig(), description="the sample shown at each evaluation"
    )

    @model_validator(mode="after")
    def _each_regularizer_once(self) -> RunConfig:
        names = [choice.name for choice in self.regularizers]
        for index, name in enumerate(names):
            if name in names[:index]:
                refuse(f"regularizers.{index}", name, f"'{name}' is listed twice; keep one")
        return self

    @model_validator(mode="after")
    def _adapters_have_what_they_adapt(self) -> RunConfig:
        if self.lora is not None and self.start is None:
            refuse("lora", None, "adapters need start.run, the run whose weights they adapt")
        if self.lora is not None and self.objective.name != "next-token":
            refuse(
                "lora",
                None,
                f"objective '{self.objective.name}' trains all weights; leave lora out, or merge "
                "the adapters first with `bptool merge`",
            )
        return self

    @model_validator(mode="after")
    def _objective_has_what_it_needs(self) -> RunConfig:
        name = self.objective.name
        if name == "next-token":
            return self
        command = {"dpo": "dpo", "ipo": "dpo", "kto": "dpo"}.get(name, name)
        use = f"use `bptool finetune {command} RUN`"
        if self.start is None or self.data.records is None:
            refuse("objective.name", name, f"'{name}' needs start and data.records; {use}")
        if (name in ("ppo", "grpo")) != (self.rollouts is not None):
            what = "without" if self.rollouts is None else "with"
            refuse("objective.name", name, f"'{name}' {what} rollouts; {use}")
        return self

    @model_validator(mode="after")
    def _schedule_fits_the_run(self) -> RunConfig:
        for key, value, message in self.schedule.config.misfits(self.training.steps):
            refuse(f"schedule.{key}", value, message)
        return self


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a configuration file, with every registered part in it."""
    choices = (MODEL, TOKENIZER, OPTIMIZER, SCHEDULE, REGULARIZER, AVERAGE, OBJECTIVE)
    schema = fill_choices(RunConfig.model_json_schema(), choices)
    title = {"$schema": SCHEMA_DIALECT, **schema}
    return {**title, "title": "bptool training configuration"}
