"""What a training run is: one YAML file, read into `TrainConfig`. Unknown keys are errors."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from schemas.policy import DEFAULT_POLICY, PolicyField

PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(Section):
    """The dimensions of a decoder, under the names that a Hugging Face config.json has for them."""

    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt
    rope_theta: float = Field(default=10_000.0, gt=0)
    rms_norm_eps: float = Field(default=1e-5, gt=0)
    vocab_size: PositiveInt | None = Field(default=None, description="null: the vocabulary of the data set")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @model_validator(mode="after")
    def _heads_fit(self) -> "ModelConfig":
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} does not give {self.num_attention_heads} heads of an even size; "
                f"make it a multiple of {2 * self.num_attention_heads}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is no multiple of "
                f"num_key_value_heads {self.num_key_value_heads}; change one of them"
            )
        return self


PRESETS: dict[str, ModelConfig] = {
    "tiny": ModelConfig(
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    ),
    "small": ModelConfig(
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
    ),
}


def _expand(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in PRESETS:
        raise ValueError(f"unknown model preset {value!r}; the presets are {', '.join(PRESETS)}")
    return PRESETS[value]


class DatasetConfig(Section):
    path: str = Field(description="the folder that holds manifest.json")


class TrainConfig(Section):
    """Sizes are of the whole run: `packs_per_step` is the global batch, whatever the number of ranks."""

    output: Path = Field(description="a new folder for metrics.jsonl and weights/")
    dataset: DatasetConfig
    model: Annotated[ModelConfig, BeforeValidator(_expand, json_schema_input_type=str | ModelConfig)]
    loss_policy: PolicyField = DEFAULT_POLICY
    packs_per_step: PositiveInt
    packs_per_microbatch: PositiveInt = 1
    steps: PositiveInt
    learning_rate: float = Field(default=3e-4, gt=0)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.1, ge=0)
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    clip_norm: float | None = Field(default=1.0, gt=0, description="null: gradients are not clipped")
    seed: int = Field(default=0, ge=0, lt=2**63)
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    log_every: PositiveInt = 1
