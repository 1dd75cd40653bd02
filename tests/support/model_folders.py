"""Real tokenizers, each loaded once a process; and in the form that model folders have them, made of the rank files
that come in packages."""

import base64
import functools
import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any

from pipeline.config import Tokenizer
from pipeline.encoders.load import load_tokenizer
from pipeline.encoders.loaded import LoadedTokenizer
from pipeline.encoders.presets import PRESETS


class MissingPackage(LookupError):
    """A package of the development environment is not installed."""


def package_file(package: str, name: str) -> Path:
    """A file of an installed package, found without importing it. Raises MissingPackage."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackage(f"the package {package} is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / name


def read_ranks(path: Path) -> dict[bytes, int]:
    lines = (line.split() for line in path.read_bytes().splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in lines}


def byte_characters() -> dict[int, str]:
    """GPT-2's printable stand-ins for bytes."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def merges_of(ranks: dict[bytes, int]) -> list[list[str]]:
    """Every split of every token into two tokens, in the order of the tokens' ranks."""
    names = byte_characters()
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        splits = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in ranks and token[i:] in ranks]
        for left, right in sorted(splits, key=lambda pair: (ranks[pair[0]], ranks[pair[1]])):
            merges.append(["".join(names[b] for b in left), "".join(names[b] for b in right)])
    return merges


def write_model_folder(
    folder: Path,
    ranks: dict[bytes, int],
    pattern: str,
    added: list[dict[str, object]],
    config: dict[str, object],
    eos_ids: list[int],
    *,
    nfc: bool,
    ignore_merges: bool,
) -> Path:
    names = byte_characters()
    vocab = {"".join(names[b] for b in token): rank for token, rank in ranks.items()}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges_of(ranks), "ignore_merges": ignore_merges},
    }
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos_ids}), "utf-8")
    return folder


def added_entries(preset_name: str) -> list[dict[str, object]]:
    return [
        {
            "id": token.id,
            "content": token.content,
            "special": token.special,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for token in PRESETS[preset_name].added_tokens
    ]


def trl_template(name: str) -> str:
    return package_file("trl", f"chat_templates/{name}.jinja").read_text("utf-8")


def load_once(path: str, preset: str | None = None, **settings: Any) -> LoadedTokenizer:
    return _load(Tokenizer(path=path, preset=preset, **settings).model_dump_json())


@functools.cache
def _load(settings: str) -> LoadedTokenizer:
    return load_tokenizer(Tokenizer.model_validate_json(settings))


@functools.cache
def _holder() -> "tempfile.TemporaryDirectory[str]":
    """Goes with the process."""
    return tempfile.TemporaryDirectory()


@functools.cache
def qwen_model_folder() -> Path:
    """Qwen 2.5 Instruct's tokenizer, with its full table of added tokens and its official template."""
    ranks = read_ranks(package_file("dashscope", "resources/qwen.tiktoken"))
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "add_bos_token": False,
        "chat_template": trl_template("qwen2_5"),
    }
    return write_model_folder(
        Path(_holder().name) / "Qwen2.5-0.5B-Instruct",
        ranks,
        PRESETS["qwen2.5"].pattern,
        added_entries("qwen2.5"),
        config,
        [151645, 151643],
        nfc=True,
        ignore_merges=False,
    )


@functools.cache
def llama_model_folder() -> Path:
    """Llama 3.1 Instruct's tokenizer with its official template."""
    ranks = read_ranks(package_file("llama_models", "llama3/tokenizer.model"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>",
        "pad_token": "<|finetune_right_pad_id|>",
        "chat_template": trl_template("llama3_1"),
    }
    return write_model_folder(
        Path(_holder().name) / "Llama-3.1-8B-Instruct",
        ranks,
        PRESETS["llama3"].pattern,
        added_entries("llama3"),
        config,
        [128001, 128008, 128009],
        nfc=False,
        ignore_merges=True,
    )
