"""From a URL to fsspec's file system for it, set up the way Packline wants it."""

from collections.abc import Mapping
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import get_protocol

from schemas.errors import ConfigError
from schemas.profiles import storage_options
from schemas.urls import without_secrets

_EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "abfs": "azure",
    "abfss": "azure",
    "az": "azure",
    "hf": "hf",
}
"""The extra that installs a scheme's library."""
_UNCACHED = {"use_listings_cache": False}  # what other processes write must be seen
_RETRIES = {"config_kwargs": {"retries": {"mode": "standard", "total_max_attempts": 3}}}
_DEFAULTS: dict[str, Mapping[str, Any]] = {"s3": _UNCACHED | _RETRIES, "gcs": _UNCACHED, "azure": _UNCACHED}


def find_file_system(url: str, profile: str | None = None) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL, and the path on it. Raises ConfigError where it cannot be set up: an unknown scheme, a
    library that is not installed, options that it does not take."""
    extra = _EXTRAS.get(url.partition("://")[0], "")
    options = {**_DEFAULTS.get(extra, {}), **storage_options(profile)}
    try:
        fs, path = url_to_fs(url, **options)
    except ImportError as error:
        mend = f"type: pip install 'packline[{extra}]'" if extra else "install what it names"
        raise ConfigError(f"{without_secrets(url)}: {error}; {mend}") from error
    except Exception as error:  # of whatever kind the library raises
        where = f" (profile {profile!r})" if profile else ""
        raise ConfigError(f"{without_secrets(url)}{where}: {type(error).__name__}: {error}") from error
    if extra == "s3":
        fs.retries = 1  # botocore's and ours are enough: times five they would take many minutes
    return fs, path


def absolute_url(url: str) -> str:
    """A local path, made absolute: a worker on a cluster has another working folder. Any other URL as it is."""
    if get_protocol(url) not in LocalFileSystem.protocol:
        return url
    path: str = LocalFileSystem._strip_protocol(url)
    return path
