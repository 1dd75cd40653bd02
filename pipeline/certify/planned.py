"""Whether a build has a certificate, and whose: decided once, where it is started."""

import importlib.metadata
import importlib.util

from pipeline.config import BuildConfig
from pipeline.encoders.loaded import Kind
from schemas.errors import ConfigError
from schemas.manifest import Certificate

OLDEST = 5
"""Major version of transformers: earlier ones give nulls to templates."""


def plan_certificate(config: BuildConfig, kind: Kind) -> Certificate | None:
    """An empty certificate, or None. Raises ConfigError where transformers is asked for and not there."""
    if config.certify == "none":
        return None
    return certificate_here(config, kind) if config.certify is None else require_certificate(config, kind)


def require_certificate(config: BuildConfig, kind: Kind) -> Certificate:
    here = certificate_here(config, kind)
    if here is None:
        raise ConfigError(
            f"certify: transformers {OLDEST} or later is not installed here; "
            "try: pip install 'packline[certify]', or build with certify: none"
        )
    return here


def certificate_here(config: BuildConfig, kind: Kind) -> Certificate | None:
    """The empty certificate of this process's libraries; None without transformers."""
    if importlib.util.find_spec("transformers") is None:
        return None
    version = importlib.metadata.version("transformers")
    if int(version.partition(".")[0]) < OLDEST:
        return None
    if kind == "huggingface":
        return _certificate("transformers", "tokenizers")
    if config.tokenizer.preset or config.tokenizer.pattern:
        return _certificate("transformers", "tiktoken")
    return Certificate(oracle="transformers", level="text", versions={"transformers": version})


def _certificate(*libraries: str) -> Certificate:
    versions = {name: importlib.metadata.version(name) for name in libraries}
    return Certificate(oracle="transformers", level="ids", versions=versions)
