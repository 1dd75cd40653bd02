"""Named profiles: options of a store that belong to the machine and not into a config, such as an endpoint and keys.

    # ~/.config/packline/profiles.yaml, or the file that PACKLINE_PROFILES names
    lab:
      endpoint_url: https://s3.lab.example
      key: ...
      secret: ...

A config names a profile and no more, so nothing that is printed, stored or sent with a job holds a secret. Without a
profile the store's own library looks for credentials: its environment variables, its files, the machine's role.
"""

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from schemas.errors import ConfigError
from schemas.yaml_text import load_yaml

VARIABLE = "PACKLINE_PROFILES"
DEFAULT_FILE = "~/.config/packline/profiles.yaml"


def storage_options(profile: str | None) -> Mapping[str, Any]:
    """What fsspec's file system is made with. Raises ConfigError where there is no such profile."""
    if profile is None:
        return {}
    path = Path(os.environ.get(VARIABLE) or DEFAULT_FILE).expanduser()
    try:
        profiles = _read(path, path.stat().st_mtime_ns)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"profile {profile!r}: {path} cannot be read ({type(error).__name__}); {VARIABLE} names the profiles' file"
        ) from None  # a YAML error quotes the line, which may hold a secret
    options = profiles.get(profile) if isinstance(profiles, dict) else None
    if not isinstance(options, dict):
        known = ", ".join(map(str, profiles)) if isinstance(profiles, dict) else "none"
        raise ConfigError(f"profile {profile!r}: {path} has no such mapping; it has {known}")
    return options


@lru_cache(maxsize=1)
def _read(path: Path, _modified: int) -> Any:
    return load_yaml(path.read_text("utf-8"))
