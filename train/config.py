"""What a training run is: one YAML file, read into `TrainConfig`. Unknown keys are errors."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from schemas.policy import DEFAULT_POLICY, LossPolicy, PolicyField
from train.architecture import PRESETS, Architecture

PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Dtype = Literal["float32", "bfloat16", "float64"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelFolder(Section):
    """A model in the format of Hugging Face: config.json and safetensors."""

    path: Path = Field(description="the folder that holds config.json")
    weights: Literal["pretrained", "random"] = Field(
        default="pretrained", description="random: only config.json is read, the weights are made from the seed"
    )


def _expand(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in PRESETS:
        raise ValueError(
            f"unknown model preset {value!r}; the presets are {', '.join(PRESETS)}, and a model's folder is "
            f"given as {{path: FOLDER}}"
        )
    return PRESETS[value]


def _kind_of_model(value: Any) -> str:
    return "folder" if isinstance(value, ModelFolder) or (isinstance(value, dict) and "path" in value) else "dimensions"


ModelField = Annotated[
    Annotated[ModelFolder, Tag("folder")] | Annotated[Architecture, Tag("dimensions")],
    Discriminator(_kind_of_model),
    BeforeValidator(_expand, json_schema_input_type=str | ModelFolder | Architecture),
]


class DatasetConfig(Section):
    path: str = Field(description="the folder or URL that holds manifest.json")
    profile: str | None = Field(default=None, description="name of a profile with the options of the path's store")
    generation: Annotated[int, Field(ge=0)] | Literal["latest", "follow"] = Field(
        default="latest",
        description="latest: the newest when the run starts; follow: at the end of each epoch the newest again",
    )
    weight: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="share of the stream's tokens, in any unit; give it for all data sets or for none",
    )
    loss_policy: PolicyField | None = Field(default=None, description="null: the run's loss_policy")
    holdout: bool = Field(
        default=False, description="read the data set's holdout shards instead of its training shards"
    )


class ValidationConfig(Section):
    """Measured with the arithmetic of training, before the first step, after each `every` steps and at the end."""

    datasets: Annotated[tuple[DatasetConfig, ...], Field(min_length=1)]
    every: PositiveInt = Field(description="steps")
    packs: PositiveInt | None = Field(default=None, description="at most so many packs of each data set; null: all")

    @model_validator(mode="after")
    def _no_weights_no_epochs(self) -> "ValidationConfig":
        if any(dataset.weight is not None for dataset in self.datasets):
            raise ValueError("validation data sets have no weight: each is measured by itself; remove `weight`")
        if any(dataset.generation == "follow" for dataset in self.datasets):
            raise ValueError("validation data sets have no epochs; give generation `latest`, or a number")
        return self


class CheckpointConfig(Section):
    every: PositiveInt | None = Field(default=None, description="steps; null: only when a signal stops the run")
    keep: PositiveInt = Field(default=2, description="the newest checkpoints that stay")
    background: bool = Field(
        default=False, description="the run goes on while one is written, from a copy in the memory of the host"
    )


class CacheConfig(Section):
    """Where shards of data sets on stores are kept."""

    folder: Path | None = Field(
        default=None, description="on each node; null: $PACKLINE_CACHE, or else ~/.cache/packline/shards"
    )
    max_gib: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="where the shards there are more, those that were not used for longest go; null: a tenth of the "
        "disk stays free",
    )

    @property
    def max_bytes(self) -> int | None:
        return None if self.max_gib is None else int(self.max_gib * (1 << 30))


class ProfileConfig(Section):
    """Steps of this start of the run that torch's profiler records; each rank writes a trace into OUTPUT/profile."""

    start: PositiveInt = Field(description="the first of them, counted from this start of the run")
    steps: PositiveInt = Field(description="so many")


class TrainConfig(Section):
    """Sizes are of the whole run: `packs_per_step` is the global batch, whatever the number of ranks."""

    output: Path = Field(description="a new folder for metrics.jsonl, checkpoints/ and model/")
    datasets: Annotated[tuple[DatasetConfig, ...], Field(min_length=1)]
    model: ModelField
    loss_policy: PolicyField = DEFAULT_POLICY
    loss_normalization: Literal["tokens", "documents"] = "tokens"
    packs_per_step: PositiveInt
    packs_per_microbatch: PositiveInt = 1
    steps: PositiveInt | None = None
    epochs: PositiveInt | None = Field(default=None, description="instead of steps: so often each pack is trained on")
    shuffle_shards: PositiveInt | None = Field(
        default=None, description="packs are shuffled within windows of so many shards; null: over all shards"
    )
    learning_rate: float = Field(default=3e-4, gt=0, allow_inf_nan=False)
    schedule: Literal["constant", "linear", "cosine", "wsd"] = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    decay_steps: int = Field(default=0, ge=0, description="wsd alone: the last steps, in which the rate falls")
    final_learning_rate: float = Field(default=0.0, ge=0, description="what linear, cosine and wsd end at")
    weight_decay: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    clip_norm: float | None = Field(default=1.0, gt=0, description="null: gradients are not clipped")
    seed: int = Field(default=0, ge=0, lt=2**63)
    dtype: Dtype = Field(default="float32", description="of the computation")
    master_dtype: Dtype | None = Field(
        default=None, description="of weights, gradient sums and optimizer state; null: float32, or float64 for float64"
    )
    shard_ranks: PositiveInt | None = Field(
        default=None,
        description="so many neighbouring ranks share one copy of the model, and the copies are replicas (HSDP); "
        "null: all ranks share one (FSDP)",
    )
    cpu_offload: bool = Field(
        default=False, description="weights, gradients and optimizer state stay in the memory of the host"
    )
    balance: bool = Field(
        default=True, description="deal the packs of a step to ranks by what their attention costs; false: in turn"
    )
    attention: Literal["auto", "sdpa", "varlen", "flex"] = "auto"
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    compile: bool = Field(default=False, description="torch.compile, block by block")
    deterministic: bool = Field(
        default=False, description="CUDA: deterministic kernels alone, the same bits every time"
    )
    validation: ValidationConfig | None = None
    checkpoints: CheckpointConfig = CheckpointConfig()
    cache: CacheConfig = CacheConfig()
    export_dtype: Dtype | None = Field(
        default=None, description="of the exported weights; null: that of the computation"
    )
    log_every: PositiveInt = 1
    loss_by_source: bool = Field(default=False, description="write the loss of every source into metrics.jsonl")
    tensorboard: bool = Field(default=False, description="write the metrics into OUTPUT/tensorboard, too")
    profile: ProfileConfig | None = None

    @model_validator(mode="after")
    def _schedule_fits(self) -> "TrainConfig":
        if (self.schedule == "wsd") != (self.decay_steps > 0):
            raise ValueError(
                f"schedule {self.schedule} with decay_steps {self.decay_steps}: wsd needs them, no other has them"
            )
        if self.final_learning_rate > self.learning_rate:
            raise ValueError(
                f"final_learning_rate {self.final_learning_rate} is above learning_rate {self.learning_rate}"
            )
        return self

    @model_validator(mode="after")
    def _steps_or_epochs(self) -> "TrainConfig":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either `steps` or `epochs`, one of the two")
        weighted = [dataset.weight is not None for dataset in self.datasets]
        if any(weighted) and not all(weighted):
            raise ValueError(f"{sum(weighted)} of {len(weighted)} data sets have a weight; give one to all, or to none")
        if self.epochs and any(weighted):
            raise ValueError(
                "with weights the data sets end at different times, so there are no epochs; give `steps`, or remove "
                "the weights, which trains each data set once an epoch"
            )
        if self.epochs and any(dataset.generation == "follow" for dataset in self.datasets):
            raise ValueError(
                "a data set that follows its new generations may grow, so that nobody knows how many steps `epochs` "
                "are; give `steps`, or generation `latest`"
            )
        return self

    def policy_of(self, dataset: DatasetConfig) -> LossPolicy:
        return dataset.loss_policy or self.loss_policy
