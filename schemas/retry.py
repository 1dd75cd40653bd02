"""Calls to a store, made again while what went wrong may pass: throttling, a lost connection, an answer cut short."""

import errno
import itertools
import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from schemas.errors import ConfigError, DatasetError, StoreError

VARIABLE = "PACKLINE_STORE_PATIENCE"
DEFAULT_PATIENCE = 60.0
"""Seconds after a call's beginning in which it is made again. Time and not a number of attempts: the stores' libraries
have retries of their own, which an attempt of ours may contain."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 10.0
"""Seconds. A wait is twice the one before, less up to half of it by chance: workers shall not come back at once."""

_log = logging.getLogger("packline.store")
Result = TypeVar("Result")

_ANSWERS = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, ConfigError, DatasetError)
_BUGS = (AttributeError, TypeError, LookupError, AssertionError, MemoryError)
_PASSING_STATUS = {408, 409, 425, 429}  # and 5xx. 409: S3 asks for another try while another write is under way
_PASSING_ERRNO = {errno.EAGAIN, errno.EBUSY, errno.EREMOTEIO if hasattr(errno, "EREMOTEIO") else errno.EBUSY}
_PASSING_CLASSES = {  # of aiohttp, azure, botocore, google.auth, httpx and requests, which need not be installed
    "ChecksumError",
    "ChunkedEncodingError",
    "ClientConnectionError",
    "ClientPayloadError",
    "ConnectionError",
    "HTTPClientError",
    "IncompleteRead",
    "IncompleteReadError",
    "ResponseParserError",
    "ServiceRequestError",
    "ServiceResponseError",
    "TimeoutError",
    "TransportError",
}
_LASTING_CLASSES = {"SSLError", "ClientSSLError"}
_DENIED = re.compile("Permission|Credential|Auth|Token")


class ShortAnswer(ConnectionError):
    """Fewer bytes, or more, than were asked for."""


def patience() -> float:
    """Seconds. Raises ConfigError for a variable that is no number."""
    given = os.environ.get(VARIABLE) or DEFAULT_PATIENCE
    try:
        return float(given)
    except ValueError as error:
        raise ConfigError(f"{VARIABLE}={given}: give a number of seconds, such as {DEFAULT_PATIENCE:.0f}") from error


def call_store(what: str, call: Callable[[], Result]) -> Result:
    """The call's result. `what` names the file, without secrets.

    Raises FileNotFoundError, FileExistsError and their like at once and as they come, StoreError for all else.
    """
    begun = time.monotonic()
    for attempt in itertools.count(1):
        try:
            return call()
        except _ANSWERS + _BUGS:
            raise
        except Exception as error:
            wait = min(FIRST_WAIT * 2 ** (attempt - 1), LONGEST_WAIT) * random.uniform(0.5, 1)
            if not may_pass(error) or time.monotonic() + wait > begun + patience():
                raise StoreError(f"{what}: {_words(error)}{_tried(attempt)}{_advice(error)}") from error
            _log.warning("%s: %s; trying again in %.1f s", what, _words(error), wait)
            time.sleep(wait)
    raise AssertionError


def may_pass(error: BaseException) -> bool:
    """Whether the same call may go well in a moment."""
    return next((found for each in _chain(error) if (found := _may_pass(each)) is not None), False)


def _may_pass(error: BaseException) -> bool | None:
    """By this one alone, and not by what it was made of; None where it does not tell."""
    names = {kind.__name__ for kind in type(error).__mro__}
    status = _own_status(error)
    if status is not None:
        return status in _PASSING_STATUS or (500 <= status < 600 and status not in (501, 505))
    if names & _LASTING_CLASSES or isinstance(error, PermissionError):
        return False
    is_passing = names & _PASSING_CLASSES or (isinstance(error, OSError) and error.errno in _PASSING_ERRNO)
    return True if is_passing else None


def http_status(error: BaseException) -> int | None:
    """The status that a store answered with."""
    return next((status for each in _chain(error) if (status := _own_status(each)) is not None), None)


def _own_status(error: BaseException) -> int | None:
    """Where botocore, azure, aiohttp, gcsfs and huggingface_hub keep it."""
    response = getattr(error, "response", None)
    metadata = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    others = (getattr(error, name, None) for name in ("status_code", "status", "code"))
    found = (metadata.get("HTTPStatusCode"), getattr(response, "status_code", None), *others)
    return next((int(str(value)) for value in found if str(value).isdecimal()), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was made of."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__


def _words(error: BaseException) -> str:
    """In a line, and without the query of a URL, which may be a signature."""
    text = re.sub(r"(\w+://[^\s?]*)\?[^\s'\"]*", r"\1", " ".join(str(error).split()))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _tried(attempts: int) -> str:
    return f" (tried {attempts} times)" if attempts > 1 else ""


def _advice(error: BaseException) -> str:
    denied = any(_DENIED.search(type(each).__name__) for each in _chain(error)) or "Forbidden" in str(error)
    if denied or http_status(error) in (401, 403):
        return "; credentials come from the store's own environment variables and files, or from a profile"
    return ""
