"""Opening a tokenizer: what kind it is, and what the config changes of it."""

import json
from dataclasses import replace

from pipeline.config import Tokenizer as TokenizerConfig
from pipeline.encoders.loaded import LoadedTokenizer, configured_tokens
from pipeline.encoders.special_tokens import GivenTokens, as_added_tokens, read_special_tokens
from pipeline.encoders.tokenizer_files import MODEL_CONFIG, TokenizerFiles, read_tokenizer_files
from schemas.errors import ConfigError
from schemas.urls import without_secrets

SPECIAL_TOKENS = "special_tokens.json"
"""The file of `tokenizer.special_tokens` among a loaded tokenizer's files."""


def load_tokenizer(config: TokenizerConfig, found: TokenizerFiles | None = None) -> LoadedTokenizer:
    """`found` are the config's files, where they were read before. Raises ConfigError for a path without a tokenizer
    that we know, and for settings that do not fit it."""
    found = read_tokenizer_files(config) if found is None else found
    loaded = _load(found, config, _given_tokens(config, found))
    if config.vocab_size is not None and loaded.encoder.vocab_size > config.vocab_size:
        raise ConfigError(
            f"tokenizer.vocab_size: {config.vocab_size}, but the tokenizer has ids up to "
            f"{loaded.encoder.vocab_size - 1}; give the vocab_size of the model's config.json"
        )
    given = {} if found.special_tokens is None else {SPECIAL_TOKENS: found.special_tokens}
    return replace(loaded, files={**loaded.files, **given}, found=found)


def _load(found: TokenizerFiles, config: TokenizerConfig, given: GivenTokens) -> LoadedTokenizer:
    from pipeline.encoders.load_ranks import is_rank_file, load_rank_file

    if found.name is None:
        from pipeline.encoders.load_huggingface import load_huggingface

        _refuse_rank_settings(config)
        return load_huggingface(found.files, config, given)
    data = found.files[found.name]
    if is_rank_file(data):
        return load_rank_file(found.name, data, config, given)
    _refuse_rank_settings(config)
    if _is_tekken_file(data):
        return _load_tekken(found.name, data, config, given)
    return _load_sentencepiece(found.name, data, config, given)


def _given_tokens(config: TokenizerConfig, found: TokenizerFiles) -> GivenTokens:
    """What `special_tokens` adds."""
    setting = config.special_tokens
    if setting is None:
        return GivenTokens()
    size, source = config.vocab_size, "tokenizer.vocab_size"
    if size is None and MODEL_CONFIG in found.files:
        model = json.loads(found.files[MODEL_CONFIG])
        known = model.get("vocab_size") or (model.get("text_config") or {}).get("vocab_size")
        size, source = (known, f"{found.folder}/{MODEL_CONFIG}") if isinstance(known, int) else (None, "")
    if isinstance(setting, str):
        assert found.special_tokens is not None
        return GivenTokens(read_special_tokens(found.special_tokens, setting), size, source)
    return GivenTokens(as_added_tokens(setting), size, source)


def _refuse_rank_settings(config: TokenizerConfig) -> None:
    for key in ("preset", "pattern"):
        if getattr(config, key) is not None:
            raise ConfigError(
                f"tokenizer.{key}: {without_secrets(config.path)} is no bare rank file and says this itself: "
                "remove the key"
            )


def _is_tekken_file(data: bytes) -> bool:
    from pipeline.encoders.tekken import is_tekken

    if data[:1] != b"{":
        return False
    try:
        return is_tekken(json.loads(data))
    except ValueError:
        return False


def _load_tekken(name: str, data: bytes, config: TokenizerConfig, given: GivenTokens) -> LoadedTokenizer:
    from pipeline.encoders.tekken import tekken_encoder, with_given_tokens

    document = json.loads(data)
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    if given.tokens:
        renamed = with_given_tokens(document, given)
        named = {role: renamed.get(content, content) for role, content in named.items()}
        data = json.dumps(document).encode()
    encoder = tekken_encoder(document, named["bos_token"], named["eos_token"])
    stops = tuple(token.id for token in encoder.added_tokens if token.content == named["eos_token"])
    return LoadedTokenizer("tiktoken", encoder, {name: data}, named | configured_tokens(config), stops)


def _load_sentencepiece(name: str, data: bytes, config: TokenizerConfig, given: GivenTokens) -> LoadedTokenizer:
    from pipeline.encoders.sentence_pieces import SentencePieceEncoder, with_given_tokens

    try:
        encoder = SentencePieceEncoder(data)
        own_size = encoder.vocab_size
        if given.tokens:
            data = with_given_tokens(data, given)
            encoder = SentencePieceEncoder(data)
    except RuntimeError as error:
        raise ConfigError(
            f"tokenizer.path: {without_secrets(config.path)} is neither a folder with tokenizer.json, "
            "a tiktoken rank file, a Tekken file nor a sentencepiece model"
        ) from error
    named = {"bos_token": encoder.bos_id, "eos_token": encoder.eos_id}
    contents = {token.id: token.content for token in encoder.added_tokens}
    special = {role: contents[token_id] for role, token_id in named.items() if token_id in contents}
    stops = () if encoder.eos_id is None else (encoder.eos_id,)
    special |= configured_tokens(config)
    return LoadedTokenizer("sentencepiece", encoder, {name: data}, special, stops, warnings=given.warnings(own_size))
