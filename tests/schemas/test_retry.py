"""Which failures of a store pass, and what is said of those that do not."""

import errno
import itertools
import logging
import time
from collections.abc import Callable

import pytest

from schemas.errors import ConfigError, DatasetError, StoreError
from schemas.retry import VARIABLE, ShortAnswer, call_store, may_pass, patience


class BotoError(Exception):
    """As botocore's ClientError has its answer."""

    def __init__(self, status: int, text: str = "words") -> None:
        super().__init__(text)
        self.response = {"Error": {"Code": str(status)}, "ResponseMetadata": {"HTTPStatusCode": status}}


class AzureError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__("words")
        self.status_code = status


class HubError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__("words")
        self.response = AzureError(status)  # which has the status as an HTTP library's answer has it


class GoogleError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__("words")
        self.code = str(status)


class EndpointConnectionError(type("ConnectionError", (Exception,), {})):  # type: ignore[misc]
    """As botocore's, which is no ConnectionError of Python's."""


class NoCredentialsError(Exception):
    pass


class SSLError(ConnectionError):
    pass


class ClientPayloadError(Exception):
    """As aiohttp's, which is made of an error with a status of the library's own."""

    def __init__(self) -> None:
        super().__init__("Response payload is not completed")
        self.__cause__ = GoogleError(400)


def translated(cause: Exception) -> OSError:
    """As s3fs raises it."""
    error = OSError(errno.EIO, "words")
    error.__cause__ = cause
    return error


PASSING = [
    *(
        make(status)
        for make in (BotoError, AzureError, HubError, GoogleError)
        for status in (408, 429, 500, 502, 503, 504)
    ),
    BotoError(409),
    translated(BotoError(503)),
    OSError(errno.EBUSY, "Please reduce your request rate."),
    EndpointConnectionError(),
    ClientPayloadError(),
    TimeoutError(),
    ConnectionResetError(),
    ShortAnswer(),
]
LASTING = [
    *(make(status) for make in (BotoError, AzureError, HubError, GoogleError) for status in (400, 401, 403, 412, 501)),
    translated(BotoError(400)),
    PermissionError(errno.EACCES, "Access Denied"),
    OSError(errno.ENOSPC, "No space left"),
    NoCredentialsError(),
    SSLError(),
    ValueError("words"),
]


class Clock:
    """Time that passes by sleeping alone."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "sleep", clock.sleep)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    monkeypatch.delenv(VARIABLE, raising=False)
    return clock


def failing(error: Exception, times: int | None = None) -> Callable[[], int]:
    """A call that raises so often, for ever without a number; then it tells how often it was called."""
    calls = itertools.count(1)

    def call() -> int:
        number = next(calls)
        if times is None or number <= times:
            raise error
        return number

    return call


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_what_may_pass_is_tried_again(error: Exception, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    assert may_pass(error)
    with caplog.at_level(logging.WARNING):
        assert call_store("s3://bucket/a", failing(error, 3)) == 4
    assert len(clock.waits) == len(caplog.records) == 3
    assert "s3://bucket/a" in caplog.text
    with pytest.raises(StoreError, match=r"s3://bucket/a: .*tried \d+ times") as caught:
        call_store("s3://bucket/a", failing(error))
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_what_stays_so_is_tried_once(error: Exception, clock: Clock) -> None:
    assert not may_pass(error)
    with pytest.raises(StoreError) as caught:
        call_store("s3://bucket/a", failing(error, 1))
    assert "tried" not in str(caught.value)
    assert clock.waits == []


@pytest.mark.parametrize("error", [FileNotFoundError("a"), FileExistsError("a"), DatasetError("a"), KeyError("a")])
def test_answers_and_bugs_come_as_they_are(error: Exception, clock: Clock) -> None:
    with pytest.raises(type(error)) as caught:
        call_store("a", failing(error, 1))
    assert caught.value is error
    assert clock.waits == []


@pytest.mark.parametrize("given", [None, 0, 2.5, 600])
def test_no_try_begins_after_the_patience(given: float | None, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    if given is not None:
        monkeypatch.setenv(VARIABLE, str(given))
    limit = 60 if given is None else given
    assert patience() == limit
    with pytest.raises(StoreError):
        call_store("a", failing(TimeoutError()))
    assert clock.now <= limit
    assert clock.now > limit - 10
    assert all(0.25 <= wait <= 10 for wait in clock.waits)


def test_patience_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "long")
    with pytest.raises(ConfigError, match="PACKLINE_STORE_PATIENCE=long"):
        patience()


def test_a_refusal_says_where_credentials_come_from(clock: Clock) -> None:
    for error in (
        BotoError(403),
        AzureError(401),
        NoCredentialsError(),
        PermissionError(errno.EACCES, "Access Denied"),
    ):
        with pytest.raises(StoreError, match="from a profile"):
            call_store("a", failing(error))
    with pytest.raises(StoreError, match="words") as caught:
        call_store("a", failing(BotoError(400)))
    assert "profile" not in str(caught.value)


def test_signatures_in_a_store_s_words_are_left_out(clock: Clock) -> None:
    error = BotoError(400, "cannot GET https://host/a?sv=1&sig=SECRET now")
    with pytest.raises(StoreError, match="https://host/a now") as caught:
        call_store("a", failing(error))
    assert "SECRET" not in str(caught.value)
