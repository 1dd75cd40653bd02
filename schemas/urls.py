"""URLs of files, and the secrets that some of them hold."""

import re
from urllib.parse import urlsplit, urlunsplit

from schemas.errors import ConfigError

_AZURE = ("abfs", "abfss")  # abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/...


def without_secrets(url: str) -> str:
    """The URL without user, password and query, fit for a log or a manifest. A plain path stays as it is."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    is_container = parts.scheme in _AZURE and ":" not in user
    return urlunsplit((parts.scheme, parts.netloc if is_container else host, parts.path, "", ""))


def check_url(where: str, url: str) -> None:
    """Raises ConfigError for a URL that holds a secret, or chains file systems."""
    scheme, _, rest = url.partition("://")
    user = rest.partition("/")[0].rpartition("@")[0]
    web = scheme in ("http", "https")
    if ":" in user or re.search(r"\?[^/]*=", rest) or (web and (user or "?" in rest)):
        raise ConfigError(
            f"{where}: {without_secrets(url)} is given with a user, password or query, and what is in a config goes "
            "into manifests and logs: leave them out, and give credentials in the store's environment variables or in "
            "a profile"
        )
    if "::" in url:
        raise ConfigError(f"{where}: {without_secrets(url)} chains file systems; unpack it, and give plain files")
