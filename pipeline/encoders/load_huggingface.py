"""Opening a Hugging Face folder: tokenizer.json, and the files beside it."""

import json
from collections.abc import Mapping
from typing import Any

import orjson

from pipeline.config import Tokenizer as TokenizerConfig
from pipeline.encoders.huggingface import HuggingFaceEncoder, read_added_tokens
from pipeline.encoders.loaded import LoadedTokenizer, configured_tokens
from pipeline.encoders.special_tokens import GivenTokens, hugging_face_entry, replace_strings
from pipeline.encoders.tokenizer_files import HUGGING_FACE_FILES
from schemas.errors import ConfigError
from schemas.urls import without_secrets

_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")


def load_huggingface(found: Mapping[str, bytes], config: TokenizerConfig, given: GivenTokens) -> LoadedTokenizer:
    """`found` are the bytes of the folder's files by name. Raises ConfigError."""
    files = {name: found[name] for name in HUGGING_FACE_FILES if name in found}
    if "tokenizer.json" not in files:
        raise ConfigError(
            f"tokenizer.path: {without_secrets(config.path)} has no tokenizer.json; write one with "
            "transformers.AutoTokenizer.from_pretrained(...).save_pretrained(...), or give the rank or .model file"
        )
    document = orjson.loads(files["tokenizer.json"])
    own_size = _vocabulary_size(document)
    if given.tokens:
        files |= _with_given(files, document, given)
    settings = json.loads(files.get("tokenizer_config.json", b"{}"))
    special = _special_tokens({**json.loads(files.get("special_tokens_map.json", b"{}")), **settings})
    special |= configured_tokens(config)
    stops = json.loads(files.get("generation_config.json", b"{}")).get("eos_token_id") or []
    stop_ids = stops if isinstance(stops, list) else [stops]
    eos = None
    for entry in document.get("added_tokens") or []:
        if entry["content"] == special.get("eos_token"):
            eos = entry["id"]
        entry["special"] |= entry["id"] in (eos, *stop_ids)  # what ends a turn is a control token, flagged or not
    template = files.get("chat_template.jinja")
    return LoadedTokenizer(
        kind="huggingface",
        encoder=HuggingFaceEncoder(orjson.dumps(document).decode(), eos),
        files=files,
        special_tokens=special,
        stop_ids=tuple(stop_ids),
        chat_template=template.decode() if template else _own_template(settings.get("chat_template")),
        warnings=given.warnings(own_size),
    )


def _vocabulary_size(document: Mapping[str, Any]) -> int:
    vocab = document["model"]["vocab"]
    ids: list[int] = [*(vocab.values() if isinstance(vocab, dict) else range(len(vocab)))]
    return 1 + max([*ids, *(token.id for token in read_added_tokens(document))])


def _with_given(files: Mapping[str, bytes], document: dict[str, Any], given: GivenTokens) -> dict[str, bytes]:
    """The files that change with the tokens of the config. The document of tokenizer.json is changed in place."""
    own = read_added_tokens(document)
    vocab = document["model"]["vocab"]
    merged = given.merge(own, set(vocab.values()) if isinstance(vocab, dict) else range(len(vocab)))
    names = given.renamed(own)
    entries = {entry["id"]: entry for entry in document.get("added_tokens") or []}
    entries |= {token.id: {"id": token.id, **hugging_face_entry(token)} for token in given.tokens}
    document["added_tokens"] = [entries[token.id] for token in merged]
    if isinstance(vocab, dict):
        document["model"]["vocab"] = {names.get(piece, piece): index for piece, index in vocab.items()}
    else:
        document["model"]["vocab"] = [[names.get(piece, piece), score] for piece, score in vocab]
    document["post_processor"] = replace_strings(document.get("post_processor"), names)
    if "unk_token" in document["model"]:
        document["model"]["unk_token"] = replace_strings(document["model"]["unk_token"], names)
    changed = {"tokenizer.json": document}
    for name in _SETTINGS:
        if name in files:
            settings = replace_strings(json.loads(files[name]), names)
            decoder = settings.get("added_tokens_decoder")
            if decoder is not None:
                decoder |= {str(token.id): hugging_face_entry(token) for token in given.tokens}
            changed[name] = settings
    return {name: json.dumps(value, ensure_ascii=False).encode() for name, value in changed.items()}


def _special_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    """Named tokens as a template sees them: strings, or the content of an added token's entry."""
    extra = settings.get("extra_special_tokens")
    named = {key: settings.get(key) for key in _ROLES} | (extra if isinstance(extra, dict) else {})
    contents = {key: value.get("content") if isinstance(value, dict) else value for key, value in named.items()}
    return {key: value for key, value in contents.items() if isinstance(value, str)}


def _own_template(template: Any) -> str | None:
    """A tokenizer_config may hold one template, or a list of named ones, of which `default` is meant."""
    if isinstance(template, list):
        return next((entry["template"] for entry in template if entry["name"] == "default"), None)
    return template if isinstance(template, str) else None
