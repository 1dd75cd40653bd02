"""Reading a model's config.json as transformers 4 and 5 write it. What changes the computation is taken or refused."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from schemas.errors import ConfigError
from schemas.manifest import first_problem
from train.architecture import Architecture

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"

SUPPORTED = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
SHOWN = (
    "LlamaForCausalLM (Llama 2, 3, 3.1, 3.2, SmolLM2), MistralForCausalLM, Qwen2ForCausalLM (Qwen 2, 2.5) and "
    "Qwen3ForCausalLM"
)

TAKEN = {
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "vocab_size",
}
"""Keys that a config.json must have."""

IMPLEMENTED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_dropout": (0,),
    "partial_rotary_factor": (1,),
    "rope_interleaved": (False,),
    "quantization_config": (),
}
"""The values that are implemented of keys that change the computation; null always is."""

KINDS: dict[type, str] = {int: "a whole number", str: "text", list: "a list", dict: "an object"}

ORIGINAL = "original_max_position_embeddings"
DEFAULT_WINDOW = 4096
DEFAULT_WINDOW_LAYERS = 28
DEFAULT_ROPE_THETA = 10_000.0


def read_json(path: Path) -> dict[str, Any]:
    """Raises ConfigError where the file is missing or holds no JSON object."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(
            f"{path} does not exist; give the folder of a model as `hf download NAME --local-dir FOLDER` leaves it"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}; copy the file once more") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds a {type(value).__name__}, not a JSON object; copy the file once more")
    return value


def read_architecture(folder: Path) -> Architecture:
    """The architecture of a model in the format of Hugging Face.

    Raises ConfigError where config.json is missing, or says something that the decoder does not do.
    """
    path = folder / CONFIG
    config = read_json(path)
    model_type = _family(config, path)
    if missing := sorted(TAKEN - {key for key, value in config.items() if value is not None} - _optional(model_type)):
        raise ConfigError(f"{path} has no {missing[0]} ({len(missing)} keys are missing); copy the file once more")
    for key, values in IMPLEMENTED.items():
        _check_value(config, key, values, path)
    try:
        return Architecture.model_validate(_translate(config, model_type, path))
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_problem(error)}") from error


def _family(config: dict[str, Any], path: Path) -> str:
    """The model_type, where both names of the architecture are supported and say the same."""
    model_type = _of_kind(config, "model_type", str, path)
    named = _of_kind(config, "architectures", list, path) or [SUPPORTED.get(model_type, model_type)]
    families = [family for family, name in SUPPORTED.items() if named == [name]]
    if not families or config.get("model_type", families[0]) != families[0]:
        seen = f"{' and '.join(map(str, named))} (model_type {model_type})"
        raise ConfigError(f"{path}: the architecture {seen} is not supported; supported are {SHOWN}")
    return families[0]


def _optional(model_type: str) -> set[str]:
    """Llama's first configs have no num_key_value_heads: as many as there are heads."""
    return {"num_key_value_heads"} if model_type == "llama" else set()


def _of_kind(config: dict[str, Any], key: str, kind: type, path: Path) -> Any:
    """The key's value; None where it is missing or null. Raises ConfigError where it is of another kind."""
    value = config.get(key)
    if value is None or isinstance(value, kind):
        return value
    raise ConfigError(f"{path}: {key} {str(value)[:80]!r} is not {KINDS[kind]}; copy the file once more")


def _check_value(config: dict[str, Any], key: str, implemented: tuple[Any, ...], path: Path) -> None:
    value = config.get(key)
    if value is None or value in implemented:
        return
    instead = f"only {implemented[0]!r} is" if implemented else "take the folder of the unquantized model"
    raise ConfigError(f"{path}: {key} {str(value)[:80]!r} is not implemented; {instead}")


def _translate(config: dict[str, Any], model_type: str, path: Path) -> dict[str, Any]:
    """config.json -> the fields of Architecture, with the family's defaults for keys that are not there."""
    theta, scaling = _rope(config, path)
    fields = {key: config.get(key) for key in TAKEN}
    fields["num_key_value_heads"] = config.get("num_key_value_heads") or config["num_attention_heads"]
    return {
        **fields,
        "model_type": model_type,
        "head_dim": config.get("head_dim") or (128 if model_type == "qwen3" else None),
        "rope_theta": theta,
        "rope_scaling": scaling,
        "rms_norm_eps": config.get("rms_norm_eps", 1e-6),
        "attention_bias": bool(config.get("attention_bias")),
        "mlp_bias": bool(config.get("mlp_bias")),
        "tie_word_embeddings": bool(config.get("tie_word_embeddings")),
        **_windows(config, model_type, path),
    }


def _rope(config: dict[str, Any], path: Path) -> tuple[float, dict[str, Any] | None]:
    """(theta, scaling). transformers 4 has them in `rope_theta` and `rope_scaling`, 5 both in `rope_parameters`."""
    parts = [_of_kind(config, key, dict, path) or {} for key in ("rope_scaling", "rope_parameters")]
    rope = {**parts[0], **parts[1]}
    if kinds := sorted(key for key, value in rope.items() if isinstance(value, dict)):
        raise ConfigError(
            f"{path}: rotary positions that differ by the type of layer ({', '.join(kinds)}) are not implemented; "
            "take a model whose rope_parameters are the same for all layers"
        )
    _check_value(rope, "partial_rotary_factor", IMPLEMENTED["partial_rotary_factor"], path)
    kind = rope.pop("rope_type", rope.pop("type", "default"))
    theta = rope.pop("rope_theta", None) or config.get("rope_theta") or DEFAULT_ROPE_THETA
    rope.pop("partial_rotary_factor", None)
    if kind == "default":
        return theta, None
    if kind not in ("linear", "llama3", "yarn"):
        raise ConfigError(
            f"{path}: rope_scaling of type {kind!r} is not implemented; linear, llama3 and yarn are. Without "
            "rope_scaling the model is another one, so remove it from the file only if you mean that"
        )
    if kind != "linear":
        original = config.get(ORIGINAL) or rope.get(ORIGINAL) or config["max_position_embeddings"]
        rope = {key: value for key, value in {**rope, ORIGINAL: original}.items() if value is not None}
    return theta, {"rope_type": kind, **rope}


def _windows(config: dict[str, Any], model_type: str, path: Path) -> dict[str, Any]:
    """In the layers that layer_types names, or else in all of Mistral's and in Qwen's from max_window_layers on. Qwen's
    is only there where it is asked for, and Llama has none."""
    kinds = _of_kind(config, "layer_types", list, path)
    if others := [kind for kind in kinds or () if kind not in ("full_attention", "sliding_attention")]:
        raise ConfigError(f"{path}: layer_types {others[0]!r} is not implemented; only attention is")
    window = config.get("sliding_window", DEFAULT_WINDOW)
    if model_type == "llama" or window is None or (model_type != "mistral" and not config.get("use_sliding_window")):
        return {}
    layers = _of_kind(config, "num_hidden_layers", int, path)
    if kinds is None:
        written = _of_kind(config, "max_window_layers", int, path)
        full = 0 if model_type == "mistral" else DEFAULT_WINDOW_LAYERS if written is None else written
        kinds = ["sliding_attention" if layer >= full else "full_attention" for layer in range(layers)]
    if kinds == ["sliding_attention"] * layers:
        return {"sliding_window": window}
    return {"sliding_window": window, "layer_types": kinds} if "sliding_attention" in kinds else {}
