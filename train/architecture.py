"""The shape of a decoder, under the names that a Hugging Face config.json has for it, and whether data fit it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from schemas.errors import ConfigError
from schemas.manifest import Manifest

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class LinearScaling(Shape):
    """Positions are divided by `factor`."""

    rope_type: Literal["linear"]
    factor: PositiveFloat


class Llama3Scaling(Shape):
    """Llama 3.1: slow frequencies are divided by `factor`, fast ones stay, and those between go over smoothly."""

    rope_type: Literal["llama3"]
    factor: PositiveFloat
    low_freq_factor: PositiveFloat
    high_freq_factor: PositiveFloat
    original_max_position_embeddings: PositiveInt

    @model_validator(mode="after")
    def _ordered(self) -> "Llama3Scaling":
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(
                f"low_freq_factor {self.low_freq_factor} is not below high_freq_factor {self.high_freq_factor}"
            )
        return self


class YarnScaling(Shape):
    """YaRN (arXiv:2309.00071): dimensions that turn seldom in the original context are slowed down by `factor`, those
    that turn often stay, and cosines and sines are scaled."""

    rope_type: Literal["yarn"]
    factor: PositiveFloat
    original_max_position_embeddings: PositiveInt
    beta_fast: PositiveFloat = Field(default=32.0, description="turns in the original context from which on all stays")
    beta_slow: PositiveFloat = Field(default=1.0, description="turns up to which a dimension is slowed down in full")
    truncate: bool = Field(default=True, description="the dimensions between which it goes over are whole numbers")
    attention_factor: PositiveFloat | None = Field(
        default=None, description="of cosines and sines; null: 0.1 * ln(factor) + 1, or by mscale and mscale_all_dim"
    )
    mscale: float | None = None
    mscale_all_dim: float | None = None

    @property
    def longest(self) -> int:
        return int(self.factor * self.original_max_position_embeddings)


RopeScaling = Annotated[LinearScaling | Llama3Scaling | YarnScaling, Field(discriminator="rope_type")]

LayerType = Literal["full_attention", "sliding_attention"]


class Architecture(Shape):
    """The family decides what no other key says: qwen2 has biases in the projections of query, key and value, qwen3
    has norms of query and key, head by head."""

    model_type: Literal["llama", "mistral", "qwen2", "qwen3"] = "llama"
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt
    head_dim: PositiveInt = Field(  # type: ignore[assignment]  # never None: _derive_head_dim
        default=None, description="null: hidden_size / num_attention_heads"
    )
    rope_theta: PositiveFloat = 10_000.0
    rope_scaling: RopeScaling | None = None
    rms_norm_eps: PositiveFloat = 1e-5
    attention_bias: bool = Field(default=False, description="llama and qwen3: in all four projections of attention")
    mlp_bias: bool = Field(default=False, description="llama")
    tie_word_embeddings: bool = Field(default=False, description="the embeddings are the output's weights as well")
    max_position_embeddings: PositiveInt | None = Field(default=None, description="longest seq_len; null: any")
    sliding_window: PositiveInt | None = Field(
        default=None,
        description="mistral, qwen2 and qwen3: so many tokens, itself the last of them, a token sees; null: all of its "
        "document",
    )
    layer_types: tuple[LayerType, ...] | None = Field(
        default=None, description="mistral, qwen2 and qwen3: the layers with sliding_window; null: all"
    )
    vocab_size: PositiveInt | None = Field(default=None, description="null: the vocabulary of the data set")

    @property
    def windows(self) -> tuple[int | None, ...]:
        """Of each layer: how many tokens, the last of them itself, a token sees; None: all up to itself."""
        kinds = self.layer_types or ("sliding_attention",) * self.num_hidden_layers
        return tuple(self.sliding_window if kind == "sliding_attention" else None for kind in kinds)

    @property
    def longest(self) -> int | None:
        """The longest document that there are positions for; None: any. YaRN stretches those of the model."""
        if self.max_position_embeddings is None or not isinstance(self.rope_scaling, YarnScaling):
            return self.max_position_embeddings
        return max(self.max_position_embeddings, self.rope_scaling.longest)

    @property
    def qkv_bias(self) -> bool:
        return self.attention_bias or self.model_type == "qwen2"

    @property
    def qk_norm(self) -> bool:
        return self.model_type == "qwen3"

    @model_validator(mode="before")
    @classmethod
    def _derive_head_dim(cls, values: Any) -> Any:
        """Sizes that are no sizes are left to the checks of the fields."""
        if not isinstance(values, dict) or values.get("head_dim") is not None:
            return values
        hidden_size, heads = values.get("hidden_size"), values.get("num_attention_heads")
        if not (isinstance(hidden_size, int) and isinstance(heads, int) and heads > 0):
            return {key: value for key, value in values.items() if key != "head_dim"}
        if hidden_size % (2 * heads):
            raise ValueError(
                f"hidden_size {hidden_size} does not give {heads} heads of an even size; "
                f"make it a multiple of {2 * heads}, or give head_dim"
            )
        return {**values, "head_dim": hidden_size // heads}

    @model_validator(mode="after")
    def _heads_fit(self) -> "Architecture":
        if self.head_dim is None or self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is no even number; rotary positions turn pairs of dimensions")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is no multiple of "
                f"num_key_value_heads {self.num_key_value_heads}; change one of them"
            )
        return self

    @model_validator(mode="after")
    def _family_has_biases(self) -> "Architecture":
        if self.attention_bias and self.model_type not in ("llama", "qwen3"):
            raise ValueError(f"{self.model_type} has no attention_bias; only llama and qwen3 can have it")
        if self.mlp_bias and self.model_type != "llama":
            raise ValueError(f"{self.model_type} has no mlp_bias; only llama can have it")
        return self

    @model_validator(mode="after")
    def _family_has_windows(self) -> "Architecture":
        if self.model_type == "llama" and self.sliding_window is not None:
            raise ValueError("llama has no sliding_window; mistral, qwen2 and qwen3 can have it")
        if self.layer_types is None:
            return self
        if self.sliding_window is None:
            raise ValueError("layer_types say which layers have sliding_window, and there is none; remove them")
        if len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(
                f"{len(self.layer_types)} layer_types for num_hidden_layers {self.num_hidden_layers}; give one for each"
            )
        return self


PRESETS: dict[str, Architecture] = {
    "tiny": Architecture(
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    ),
    "small": Architecture(
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
    ),
}


def check_fit(architecture: Architecture, manifest: Manifest, dataset: str) -> Architecture:
    """The architecture with a vocabulary: its own, or that of the data set, whose path `dataset` is.

    Raises ConfigError where the data set has ids or positions that the model has not.
    """
    vocab_size = architecture.vocab_size or manifest.vocab_size
    if manifest.vocab_size > vocab_size:
        raise ConfigError(
            f"{dataset}: the data set's vocabulary has {manifest.vocab_size:,} ids, the model's vocab_size is "
            f"{vocab_size:,}; build the data set with this model's tokenizer, or train a model with at least as many"
        )
    longest = architecture.longest
    if longest is not None and manifest.seq_len > longest:
        stretched = "" if longest == architecture.max_position_embeddings else ", stretched by yarn,"
        raise ConfigError(
            f"{dataset}: the data set's seq_len is {manifest.seq_len:,}, the model's max_position_embeddings{stretched}"
            f" is {longest:,}; build the data set with seq_len {longest} or less, or train a model with more positions"
        )
    return architecture.model_copy(update={"vocab_size": vocab_size})
