"""config.json as two versions of transformers write it; what the decoder does not do is refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hugging_face_models import FAMILIES, as_version_4, small_sizes
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from schemas.errors import ConfigError
from schemas.manifest import Manifest, load_manifest
from schemas.store import Folder
from train.architecture import PRESETS, Architecture, Llama3Scaling, YarnScaling, check_fit
from train.model_folder import read_architecture

LLAMA_2 = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "rms_norm_eps": 1e-05,
    "torch_dtype": "float16",
    "vocab_size": 32000,
}
QWEN_3: dict[str, Any] = {
    **LLAMA_2,
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "num_key_value_heads": 8,
    "use_sliding_window": False,
    "sliding_window": 512,
}

LAYER_TYPES = ("sliding_attention", "full_attention")


def write(folder: Path, config: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def windows_of(config: Any) -> list[int | None]:
    """What the layers of transformers' own model have; Mistral's are all alike, and say nothing."""
    layers = AutoModelForCausalLM.from_config(config).model.layers
    return [getattr(layer.self_attn, "sliding_window", getattr(config, "sliding_window", None)) for layer in layers]


@pytest.mark.parametrize("family", FAMILIES)
def test_both_spellings_say_the_same(family: str, tmp_path: Path) -> None:
    config = FAMILIES[family](small_sizes(3))
    config.architectures = None  # then model_type alone tells
    config.dtype = "bfloat16"
    config.save_pretrained(tmp_path)
    new = json.loads((tmp_path / "config.json").read_text())
    found = read_architecture(tmp_path)
    assert found == read_architecture(write(tmp_path, as_version_4(new)))
    for name in set(Architecture.model_fields) & set(new) - {"sliding_window", "layer_types"}:
        assert getattr(found, name) == new[name], name
    assert found.rope_theta == new["rope_parameters"]["rope_theta"]
    assert (found.rope_scaling is None) == (new["rope_parameters"]["rope_type"] == "default")
    assert list(found.windows) == windows_of(config)


def test_what_an_old_config_leaves_out(tmp_path: Path) -> None:
    llama = read_architecture(write(tmp_path, LLAMA_2))
    assert (llama.num_key_value_heads, llama.head_dim, llama.rope_theta) == (32, 128, 10_000)
    assert not any((llama.tie_word_embeddings, llama.attention_bias, llama.mlp_bias))
    old = {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaled = {**LLAMA_2, "rope_scaling": {**old, "original_max_position_embeddings": 8192}}
    assert isinstance(read_architecture(write(tmp_path, scaled)).rope_scaling, Llama3Scaling)
    assert read_architecture(write(tmp_path, {**QWEN_3, "hidden_size": 1024})).head_dim == 128


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}, "GPT2LMHeadModel .*not supported; supported"),
        ({"architectures": None, "model_type": "gemma2"}, r"gemma2 .*LlamaForCausalLM \(Llama 2, 3, 3.1, 3.2"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"model_type": "granite"}, "granite"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not implemented; only 'silu' is"),
        ({"attention_dropout": 0.1}, "attention_dropout '0.1'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}}, "partial_rotary_factor"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 4.0}}, "'longrope' is not implemented; linear, llama3"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        ({"rope_scaling": {"type": "yarn", "factor": None}}, "factor"),
        ({"rope_scaling": {"type": "linear"}}, "factor"),
        ({"rope_interleaved": True}, "rope_interleaved"),
        ({"quantization_config": {"quant_method": "gptq"}}, "take the folder of the unquantized model"),
        ({"layer_types": ["chunked_attention"]}, "'chunked_attention'"),
        ({"intermediate_size": None}, r"has no intermediate_size \(1 keys"),
        ({"rope_scaling": "llama3"}, "rope_scaling 'llama3' is not an object; copy the file"),
        ({"rope_parameters": [10_000.0]}, r"rope_parameters '\[10000.0\]' is not an object"),
        (
            {"rope_parameters": {kind: {"rope_type": "default", "rope_theta": 1e6} for kind in LAYER_TYPES}},
            r"differ by the type of layer \(full_attention, sliding_attention\) are not implemented",
        ),
        ({"model_type": ["llama"]}, r"model_type \"\['llama'\]\" is not text"),
        ({"architectures": "LlamaForCausalLM"}, "architectures 'LlamaForCausalLM' is not a list"),
        ({"architectures": [["LlamaForCausalLM"]]}, "is not supported; supported are"),
        ({"layer_types": "full_attention"}, "layer_types 'full_attention' is not a list"),
        ({"layer_types": [{}]}, "layer_types {} is not implemented"),
        ({"hidden_size": 4098}, "make it a multiple of 64"),
        ({"architectures": ["MistralForCausalLM"], "model_type": "mistral"}, "num_key_value_heads"),
    ],
)
def test_what_the_decoder_does_not_do_is_refused_by_name(changes: Any, message: str, tmp_path: Path) -> None:
    assert read_architecture(write(tmp_path, LLAMA_2))
    with pytest.raises(ConfigError, match=message):
        read_architecture(write(tmp_path, {**LLAMA_2, **changes}))


def test_a_folder_without_a_readable_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere/config\.json does not exist"):
        read_architecture(tmp_path / "nowhere")
    others = ("[]", "list"), ('"llama"', "str"), ("null", "NoneType")
    for text, message in (("{", "is no JSON"), *((text, f"holds a {kind}, not") for text, kind in others)):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_architecture(tmp_path)


FOUR_LAYERS = {**QWEN_3, "num_hidden_layers": 4, "sliding_window": 512}
MISTRAL = {**FOUR_LAYERS, "architectures": ["MistralForCausalLM"], "model_type": "mistral"}
S, F = "sliding_attention", "full_attention"


@pytest.mark.parametrize(
    ("config", "windows"),
    [
        (FOUR_LAYERS, [None] * 4),
        ({**FOUR_LAYERS, "use_sliding_window": True}, [None] * 4),  # max_window_layers is 28 where it is not said
        ({**FOUR_LAYERS, "use_sliding_window": True, "max_window_layers": 0}, [512] * 4),
        ({**FOUR_LAYERS, "use_sliding_window": True, "max_window_layers": 3}, [None, None, None, 512]),
        ({**FOUR_LAYERS, "use_sliding_window": True, "layer_types": [F, S, S, F]}, [None, 512, 512, None]),
        ({**FOUR_LAYERS, "use_sliding_window": True, "layer_types": [F] * 4}, [None] * 4),
        ({**FOUR_LAYERS, "use_sliding_window": True, "sliding_window": None, "max_window_layers": 0}, [None] * 4),
        (MISTRAL, [512] * 4),
        ({**MISTRAL, "layer_types": [F, S, S, F]}, [None, 512, 512, None]),  # transformers: "treating as ministral"
        ({**MISTRAL, "layer_types": [F] * 4}, [None] * 4),
        ({**MISTRAL, "sliding_window": None}, [None] * 4),
        ({key: value for key, value in MISTRAL.items() if key != "sliding_window"}, [4096] * 4),
        ({**LLAMA_2, "num_hidden_layers": 4, "sliding_window": 512}, [None] * 4),
    ],
)
def test_layers_have_the_windows_that_transformers_gives_them(config: Any, windows: Any, tmp_path: Path) -> None:
    assert list(read_architecture(write(tmp_path, config)).windows) == windows


def test_layers_that_cannot_be_counted(tmp_path: Path) -> None:
    windowed = {**FOUR_LAYERS, "use_sliding_window": True}
    for key in ("num_hidden_layers", "max_window_layers"):
        with pytest.raises(ConfigError, match=f"{key} '4' is not a whole number"):
            read_architecture(write(tmp_path, {**windowed, key: "4"}))


def test_layers_without_a_type(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 layer_types for num_hidden_layers 4; give one for each"):
        read_architecture(write(tmp_path, {**FOUR_LAYERS, "use_sliding_window": True, "layer_types": [F, S]}))


@pytest.mark.parametrize("outside", [{}, {"original_max_position_embeddings": 1000}])
def test_yarn_stretches_the_positions_that_there_are(outside: dict[str, int], tmp_path: Path) -> None:
    """The original number of positions is that beside rope_scaling, in it, or max_position_embeddings."""
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048, "mscale": None}
    found = read_architecture(write(tmp_path, {**LLAMA_2, **outside, "rope_scaling": yarn}))
    assert isinstance(found.rope_scaling, YarnScaling)
    assert found.rope_scaling.original_max_position_embeddings == (1000 if outside else 2048)
    assert (found.max_position_embeddings, found.longest) == (4096, 4096 if outside else 8192)
    short = {"type": "yarn", "factor": 4.0}
    assert read_architecture(write(tmp_path, {**LLAMA_2, "rope_scaling": short})).longest == 4 * 4096


TWICE = YarnScaling(rope_type="yarn", factor=2.0, original_max_position_embeddings=6)


@pytest.fixture
def manifest(tmp_path: Path, build_dataset: Callable[..., str], unequal_packs: Any) -> Manifest:
    """Of 50 ids, and of packs of 16 tokens."""
    return load_manifest(Folder(build_dataset(tmp_path / "data", unequal_packs)))


def test_a_model_takes_the_data_sets_vocabulary_or_keeps_its_own(manifest: Manifest) -> None:
    tiny = PRESETS["tiny"]
    assert check_fit(tiny, manifest, "data").vocab_size == 50
    fits = {"vocab_size": 60, "max_position_embeddings": 16, "sliding_window": 4}
    assert check_fit(tiny.model_copy(update=fits), manifest, "data").vocab_size == 60


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 49}, "data: the data set's vocabulary has 50 ids, the model's vocab_size is 49; build"),
        (
            {"max_position_embeddings": 15},
            "data: the data set's seq_len is 16, the model's max_position_embeddings is 15",
        ),
        (
            {"max_position_embeddings": 6, "rope_scaling": TWICE},
            "the model's max_position_embeddings, stretched by yarn, is 12; build the data set with seq_len 12",
        ),
    ],
)
def test_data_that_do_not_fit_are_refused(changes: dict[str, Any], message: str, manifest: Manifest) -> None:
    with pytest.raises(ConfigError, match=message):
        check_fit(PRESETS["tiny"].model_copy(update=changes), manifest, "data")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_dim": 7}, "head_dim 7 is no even number"),
        ({"model_type": "mistral", "attention_bias": True}, "mistral has no attention_bias"),
        ({"model_type": "qwen3", "mlp_bias": True}, "qwen3 has no mlp_bias"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2}}, "longrope"),
        ({"sliding_window": 8}, "llama has no sliding_window; mistral, qwen2 and qwen3"),
        ({"model_type": "qwen2", "layer_types": [S, S]}, "which layers have sliding_window, and there is none"),
        ({"hidden_size": 0}, "greater than 0"),
        ({"num_attention_heads": 0}, "greater than 0"),
        ({"hidden_size": "wide"}, "valid integer"),
        ({"num_key_value_heads": 3}, "no multiple of num_key_value_heads 3"),
    ],
)
def test_sizes_that_fit_nothing(changes: dict[str, Any], message: str) -> None:
    sizes = PRESETS["tiny"].model_dump(exclude={"head_dim"})
    assert Architecture(**sizes, head_dim=None) == Architecture(**sizes) == PRESETS["tiny"]
    with pytest.raises(ValidationError, match=message):
        Architecture(**{**sizes, **changes})
