"""An exported folder is all that transformers, and so a server, needs: weights, tokenizer, template, where to stop."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hugging_face_models import FAMILIES, LLAMA3_SCALING, YARN_SCALING, make_model, save_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import pipeline
from pipeline.config import load_config
from schemas.errors import ConfigError, DatasetError
from schemas.golden import GOLDEN, decode_golden
from schemas.manifest import Manifest, load_manifest
from schemas.store import Folder
from train import export as export_module
from train.architecture import PRESETS, Architecture, check_fit
from train.attention import isolate
from train.export import export, plan_files
from train.model import Decoder
from train.model_folder import read_architecture
from train.packs import ShardedPacks
from train.serving import serving_files
from train.weights import initialise, load_weights

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
IM_END, END_OF_TEXT = 1236, 1234
MODEL_VOCAB_SIZE = 1250


def build(folder: Path, **keys: Any) -> Path:
    settings = {"output": folder, "certify": "none", "max_reject_fraction": "1.0", **keys}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        pipeline.build(load_config(Path("examples/demo.yaml"), [f"{k}={v}" for k, v in settings.items()]), workers=1)
    return folder


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = "[{path: examples/chat.jsonl, transform: {type: openai}}]"
    return build(tmp_path_factory.mktemp("chats") / "data", sources=source)


def manifest_of(dataset: Path) -> Manifest:
    return load_manifest(Folder(str(dataset)))


def export_folder(source: Path, dataset: Path, output: Path, dtype: torch.dtype = torch.float32) -> Path:
    model = Decoder(check_fit(read_architecture(source), manifest_of(dataset), str(dataset)))
    load_weights(model, source)
    write_model(model, dataset, source, output, dtype)
    return output


def write_model(model: Decoder, dataset: Path, source: Path | None, output: Path, dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    export(model, output, serving_files(model.architecture, [ShardedPacks(str(dataset))], source, name), dtype)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.parametrize("spelling", [4, 5])
@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_loads_it_with_equal_logits(family: str, spelling: int, chats: Path, tmp_path: Path) -> None:
    oracle = make_model(family, vocab_size=MODEL_VOCAB_SIZE)
    source = save_model(oracle, tmp_path / "source", spelling)
    exported = export_folder(source, chats, tmp_path / "exported")
    loaded = AutoModelForCausalLM.from_pretrained(exported, attn_implementation="eager")
    assert loaded.dtype == torch.float32
    input_ids = torch.arange(2 * 40).view(2, 40) * 7 % MODEL_VOCAB_SIZE
    with torch.no_grad():
        assert torch.equal(loaded(input_ids).logits, oracle(input_ids).logits)
    ours = {"eos_token_id", "bos_token_id", "pad_token_id", "dtype", "torch_dtype"}
    before, after = read(source / "config.json"), read(exported / "config.json")
    assert all(after[key] == value for key, value in before.items() if key not in ours)
    assert ("dtype" in after) == (spelling == 5)
    assert list(load_file(exported / "model.safetensors")) == list(load_file(source / "model.safetensors"))


SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"rope_scaling": LLAMA3_SCALING, "head_dim": 10, "attention_bias": True, "mlp_bias": True},
    "mistral": {
        "sliding_window": 30,
        "layer_types": ["full_attention", "sliding_attention"],
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    },
    "qwen2": {"tie_word_embeddings": True, "sliding_window": 20, "rope_scaling": YARN_SCALING},
    "qwen3": {
        "head_dim": 12,
        "rope_theta": 1e6,
        "sliding_window": 20,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}


@pytest.mark.parametrize("family", SHAPES)
def test_a_model_made_from_dimensions_gets_a_config_of_its_family(family: str, chats: Path, tmp_path: Path) -> None:
    sizes = PRESETS["tiny"].model_dump(exclude={"head_dim"}) | {"model_type": family, **SHAPES[family]}
    model = Decoder(check_fit(Architecture(**sizes), manifest_of(chats), "data"))
    initialise(model, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.empty_like(parameter).normal_(std=0.1))
    output = tmp_path / "exported"
    write_model(model, chats, None, output, torch.float32)
    assert AutoConfig.from_pretrained(output).max_position_embeddings == 512
    assert read_architecture(output) == model.architecture.model_copy(update={"max_position_embeddings": 512})
    input_ids = torch.arange(50)[None] * 11 % 1243
    mask = isolate(torch.zeros_like(input_ids), torch.tensor([0, 50], dtype=torch.int32), "sdpa")
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(output)(input_ids).logits
        found = model.logits(input_ids, torch.arange(50)[None], mask)
    assert expected.std() > 0.1
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_the_tokenizer_gives_the_golden_ids(chats: Path, tmp_path: Path) -> None:
    source = save_model(make_model("qwen2.5", vocab_size=MODEL_VOCAB_SIZE), tmp_path / "source")
    exported = export_folder(source, chats, tmp_path / "exported")
    for path in (chats / "tokenizer").iterdir():
        if path.name != "generation_config.json":
            assert (exported / path.name).read_bytes() == path.read_bytes()
    tokenizer = AutoTokenizer.from_pretrained(exported)
    golden = decode_golden((exported / GOLDEN).read_bytes(), GOLDEN)
    for vector in golden.vectors:
        given = {"tools": vector.tools, **golden.template_kwargs}
        assert tokenizer.apply_chat_template(vector.messages, **given)["input_ids"] == vector.ids
        if vector.prompt_ids is not None:
            prompt = tokenizer.apply_chat_template(vector.messages[:-1], add_generation_prompt=True, **given)
            assert prompt["input_ids"] == vector.prompt_ids


def test_generation_stops_at_the_models_ends_and_the_templates(chats: Path, tmp_path: Path) -> None:
    """A base model knows 7 and 8 as ends; the template ends a turn in <|im_end|>."""
    source = save_model(make_model("llama3", vocab_size=MODEL_VOCAB_SIZE, eos_token_id=7), tmp_path / "source")
    own = {"eos_token_id": [8], "do_sample": True, "temperature": 0.6, "bos_token_id": 3}
    (source / "generation_config.json").write_text(json.dumps(own))
    exported = export_folder(source, chats, tmp_path / "exported")
    settings = GenerationConfig.from_pretrained(exported)
    assert settings.eos_token_id == read(exported / "config.json")["eos_token_id"] == [8, 7, END_OF_TEXT, IM_END]
    assert (settings.do_sample, settings.temperature, settings.bos_token_id) == (True, 0.6, 3)
    assert settings.pad_token_id == manifest_of(chats).pad_id
    assert IM_END in manifest_of(chats).end_ids


def test_a_model_that_writes_the_end_of_a_turn_stops_there(chats: Path, tmp_path: Path) -> None:
    """Its output weights make <|im_end|> the likeliest token after anything."""
    model = make_model("llama2", vocab_size=MODEL_VOCAB_SIZE)
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.model.norm.weight.zero_()
        model.lm_head.weight[IM_END] = 1.0
        model.model.norm.weight[0] = 1.0
    source = save_model(model, tmp_path / "source")
    exported = export_folder(source, chats, tmp_path / "exported")
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(exported), AutoTokenizer.from_pretrained(exported)
    question = [{"role": "user", "content": "What is 2 + 2?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    logits = loaded(prompt).logits[0, -1]
    with torch.no_grad():
        loaded.lm_head.weight[IM_END] *= logits[IM_END].sign()
    written = loaded.generate(prompt, max_new_tokens=5, do_sample=False)[0, prompt.shape[1] :]
    assert written.tolist() == [IM_END]


def test_text_without_a_template_stops_at_the_tokenizers_end(tmp_path: Path) -> None:
    plain = shutil.copytree(ROOT / "examples/tokenizer", tmp_path / "tokenizer")
    for name in ("chat_template.jinja", "generation_config.json"):
        (plain / name).unlink()
    source = "[{path: examples/notes.txt, transform: {type: text}}]"
    dataset = build(tmp_path / "data", sources=source, tokenizer=f"{{path: {plain}}}")
    manifest = manifest_of(dataset)
    assert (manifest.chat_template, manifest.eos_id) == (None, IM_END)
    model = save_model(make_model("mistral", vocab_size=MODEL_VOCAB_SIZE, eos_token_id=2), tmp_path / "source")
    exported = export_folder(model, dataset, tmp_path / "exported")
    assert read(exported / "generation_config.json")["eos_token_id"] == [2, IM_END]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built with the tokenizer and the template of the chats."""
    source = "[{path: examples/notes.txt, transform: {type: text}}]"
    return build(tmp_path_factory.mktemp("texts") / "data", sources=source)


def with_template(dataset: Path, output: Path, sha256: str | None) -> Path:
    shutil.copytree(dataset, output)
    facts = sha256 and manifest_of(dataset).chat_template.model_copy(update={"sha256": sha256})  # type: ignore[union-attr]
    manifest = manifest_of(dataset).model_copy(update={"chat_template": facts})
    (output / "manifest.json").write_bytes(manifest.encode())
    if sha256 is None:
        (output / "tokenizer" / "chat_template.jinja").unlink()
    return output


def test_of_several_data_sets_the_template_is_that_of_the_one_that_has_one(
    chats: Path, texts: Path, tmp_path: Path
) -> None:
    plain, other = with_template(texts, tmp_path / "plain", None), with_template(chats, tmp_path / "other", "f" * 64)
    shape = PRESETS["tiny"].model_copy(update={"vocab_size": 1243})
    datasets = {path: ShardedPacks(str(path)) for path in (plain, chats, other)}
    files = serving_files(shape, [datasets[plain], datasets[chats]], None, "float32")
    assert files["chat_template.jinja"] == (chats / "tokenizer" / "chat_template.jinja").read_bytes()
    assert IM_END in json.loads(files["generation_config.json"])["eos_token_id"]
    with pytest.raises(ConfigError, match="different chat templates"):
        serving_files(shape, [datasets[chats], datasets[plain], datasets[other]], None, "float32")


def test_a_data_set_without_its_tokenizer_is_refused(chats: Path, tmp_path: Path) -> None:
    shutil.copytree(chats, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "tokenizer")
    with pytest.raises(DatasetError, match="copy the whole data set"):
        serving_files(PRESETS["tiny"], [ShardedPacks(str(tmp_path / "data"))], None, "float32")


def test_weights_are_cut_into_files_in_the_dtype_that_is_asked_for(
    chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "MAX_FILE_BYTES", 30_000)
    oracle = make_model("qwen3-biases", vocab_size=MODEL_VOCAB_SIZE)
    source = save_model(oracle, tmp_path / "source")
    exported = export_folder(source, chats, tmp_path / "exported", torch.bfloat16)
    index = read(exported / "model.safetensors.index.json")
    files = sorted(set(index["weight_map"].values()))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert len(files) == len(list(exported.glob("*.safetensors"))) > 2
    assert index["metadata"]["total_size"] == 2 * sum(parameter.numel() for parameter in oracle.parameters())
    loaded = AutoModelForCausalLM.from_pretrained(exported)
    assert loaded.dtype == torch.bfloat16
    expected = {name: tensor.bfloat16() for name, tensor in oracle.state_dict().items()}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


def test_files_hold_as_much_as_they_may() -> None:
    sizes = {"a": 4, "b": 6, "c": 1, "d": 12, "e": 3, "f": 7}
    assert list(plan_files(sizes, 10).values()) == [["a", "b"], ["c"], ["d"], ["e", "f"]]
    assert plan_files(sizes, 33) == {"model.safetensors": list(sizes)}


def test_a_folder_has_its_name_only_when_it_is_whole(
    chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save_model(make_model("llama2", vocab_size=MODEL_VOCAB_SIZE), tmp_path / "source")
    with monkeypatch.context() as context:
        context.setattr(export_module, "save_file", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export_folder(source, chats, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()
    assert (tmp_path / ".exported.tmp" / "config.json").exists()
    export_folder(source, chats, tmp_path / "exported")
    assert not (tmp_path / ".exported.tmp").exists()
