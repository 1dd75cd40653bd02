"""Opening a bare rank file, with what the config says of it."""

import base64

from pipeline.config import Tokenizer as TokenizerConfig
from pipeline.encoders.base import set_controls
from pipeline.encoders.byte_pairs import BytePairEncoder
from pipeline.encoders.loaded import LoadedTokenizer, configured_tokens
from pipeline.encoders.presets import PRESETS, Preset
from pipeline.encoders.special_tokens import GivenTokens
from schemas.errors import ConfigError
from schemas.urls import without_secrets


def is_rank_file(data: bytes) -> bool:
    """Lines of a base64 token and its rank."""
    token, _, rank = data[:4096].partition(b"\n")[0].partition(b" ")
    try:
        return bool(base64.b64decode(token, validate=True)) and rank.strip().isdigit()
    except ValueError:
        return False


def load_rank_file(name: str, data: bytes, config: TokenizerConfig, given: GivenTokens) -> LoadedTokenizer:
    """Raises ConfigError."""
    preset = _preset(config)
    pattern = config.pattern or (preset.pattern if preset else None)
    if pattern is None:
        raise ConfigError(
            f"tokenizer.path: {without_secrets(config.path)} is a bare rank file: say what it leaves open with "
            f"tokenizer.preset (one of {', '.join(PRESETS)}), or with tokenizer.pattern and tokenizer.special_tokens"
        )
    ranks = _read_ranks(data, without_secrets(config.path))
    own = preset.added_tokens if preset else ()
    added = given.merge(own, set(ranks.values()))
    special = _named_tokens(preset, given.renamed(own)) | configured_tokens(config)
    ids = {token.content: token.id for token in added}
    for role, content in special.items():
        if content not in ids:
            raise ConfigError(f"tokenizer.{role}: {content!r} is none of the special tokens; add it to special_tokens")
    bos, eos = ([ids[special[role]]] if role in special else [] for role in ("bos_token", "eos_token"))
    stops = tuple(token.id for token in own if preset and token.content in preset.stop_tokens)
    controls = {token.content for token in added if token.special or token.id in (*eos, *stops)}
    encoder = BytePairEncoder(
        ranks,
        pattern,
        set_controls(added, controls),
        nfc=preset.nfc if preset else False,
        prefix=bos,
        suffix=eos,
    )
    own_size = max([*ranks.values(), *(token.id for token in own)]) + 1
    return LoadedTokenizer(
        "tiktoken", encoder, {name: data}, special, stops, preset=preset, warnings=given.warnings(own_size)
    )


def _named_tokens(preset: Preset | None, renamed: dict[str, str]) -> dict[str, str]:
    if preset is None:
        return {}
    named = {"bos_token": preset.bos_token, "eos_token": preset.eos_token, "pad_token": preset.pad_token}
    return {role: renamed.get(content, content) for role, content in named.items() if content is not None}


def _preset(config: TokenizerConfig) -> Preset | None:
    if config.preset is None:
        return None
    if config.preset not in PRESETS:
        raise ConfigError(f"tokenizer.preset: {config.preset!r} is unknown; there are {', '.join(PRESETS)}")
    return PRESETS[config.preset]


def _read_ranks(data: bytes, path: str) -> dict[bytes, int]:
    ranks = {}
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token)] = int(rank)
        except ValueError as error:
            raise ConfigError(f"tokenizer.path: {path}: line {number} is not a base64 token and a rank") from error
    return ranks
