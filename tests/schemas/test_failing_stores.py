"""What the S3 library and ours make together of a server that fails."""

import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from failing_store import FailingStore, Fault, failing_store
from servers import KEY, SECRET, Store

from schemas import range_file, retry
from schemas.errors import StoreError
from schemas.profiles import VARIABLE
from schemas.retry import VARIABLE as PATIENCE
from schemas.store import Folder

pytestmark = pytest.mark.slow
FAULTS: tuple[Fault, ...] = ("503", "500", "closed", "short")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FailingStore]:
    with failing_store() as server:
        options = {"endpoint_url": server.endpoint, "key": KEY, "secret": SECRET}
        (tmp_path / "profiles.yaml").write_text(yaml.safe_dump({"failing": options}))
        monkeypatch.setenv(VARIABLE, str(tmp_path / "profiles.yaml"))
        yield server


FOLDER = Folder("s3://bucket/x", "failing")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.05)


@pytest.mark.parametrize("fault", FAULTS)
def test_one_failure_is_not_noticed(server: FailingStore, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(range_file, "BLOCK", 2**16)
    data = os.urandom(2**17)
    if fault != "short":
        server.faults = [fault]
    FOLDER.write("a", data)
    server.faults = [fault]
    assert FOLDER.read("a") == data
    server.faults = [fault]
    with FOLDER.open("a") as file:
        assert file.read() == data
    assert not server.faults


@pytest.mark.parametrize("fault", ["503", "short"])
def test_a_failure_that_stays_is_told(server: FailingStore, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE, "0.1")
    FOLDER.write("a", b"x" * 1000)
    server.always = fault
    server.requests.clear()
    with pytest.raises(StoreError, match=r"s3://bucket/x/a: ") as caught:
        FOLDER.read("a")
    assert 1 <= len(server.requests) <= 12, "tries of ours times those of the library"
    if fault == "503":
        assert "it is" in str(caught.value), "the store's own words"


def test_a_created_file_whose_answer_was_lost_is_ours(server: FailingStore) -> None:
    server.faults = ["lost"]
    assert FOLDER.create("a", b"ours")
    assert server.requests.count("PUT") == 2
    assert FOLDER.read("a") == b"ours"
    server.faults = ["lost"]
    assert not FOLDER.create("a", b"other")
    assert FOLDER.read("a") == b"ours"


def test_a_file_is_read_with_one_request_a_block(server: FailingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(range_file, "BLOCK", 2**16)
    FOLDER.write("a", bytes(2**18))
    assert server.requests == ["PUT"]
    server.requests.clear()
    assert len(FOLDER.read("a")) == 2**18
    assert server.requests == ["GET"]
    server.requests.clear()
    with FOLDER.open("a") as file:
        assert len(file.read()) == 2**18
    assert server.requests == ["HEAD", *["GET"] * 4]


def _read_in_child(folder: Folder, expected: bytes) -> None:
    assert folder.read("a") == expected
    folder.write("b", expected)


def test_a_forked_process_works_on(moto_store: Store) -> None:
    """The library's thread and connections are the parent's, and not to be used by a child."""
    folder = moto_store.new_folder()
    folder.write("a", b"before the fork")
    children = [
        multiprocessing.get_context("fork").Process(target=_read_in_child, args=(folder, b"before the fork"))
        for _ in range(2)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert folder.read("b") == b"before the fork"
