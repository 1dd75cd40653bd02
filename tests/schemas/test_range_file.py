"""A file read by ranges reads like any other, and asks for little more than it gives."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import range_file
from schemas.range_file import open_ranges

DATA = bytes(range(251)) * 4


class Ranges:
    """Gives ranges of DATA, and keeps which were asked for."""

    def __init__(self, data: bytes = DATA) -> None:
        self.data = data
        self.asked: list[tuple[int, int]] = []

    def read(self, start: int, end: int) -> bytes:
        assert 0 <= start < end <= len(self.data)
        self.asked.append((start, end))
        return self.data[start:end]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(range_file, "BLOCK", 64)
    monkeypatch.setattr(range_file, "BEYOND", 8)


STEPS = st.tuples(st.sampled_from(["read", "set", "cur", "end"]), st.integers(0, 300))


@given(st.lists(STEPS, max_size=12), st.none() | st.integers(0, len(DATA)))
def test_it_reads_like_a_file(steps: list[tuple[str, int]], expected_end: int | None) -> None:
    ours, reference = open_ranges(Ranges().read, len(DATA), expected_end), io.BytesIO(DATA)
    for step, number in steps:
        if step == "read":
            assert ours.read(number) == reference.read(number)
        elif step == "set":
            assert ours.seek(number) == reference.seek(number)
        elif step == "cur":
            assert ours.seek(number, io.SEEK_CUR) == reference.seek(number, io.SEEK_CUR)
        else:
            assert ours.seek(-number, io.SEEK_END) == reference.seek(-number, io.SEEK_END)
        assert ours.tell() == reference.tell()
    assert ours.read() == reference.read()


def test_an_empty_file() -> None:
    assert open_ranges(Ranges(b"").read, 0).read() == b""


def test_nothing_is_asked_for_twice() -> None:
    ranges = Ranges()
    with open_ranges(ranges.read, len(DATA)) as file:
        while file.read(10):
            pass
    assert [start for start, _ in ranges.asked] == list(range(0, len(DATA), 64))
    assert sum(end - start for start, end in ranges.asked) == len(DATA)


def test_the_rest_is_asked_for_in_blocks() -> None:
    ranges = Ranges()
    with open_ranges(ranges.read, len(DATA)) as file:
        assert file.read() == DATA
    assert len(ranges.asked) == -(-len(DATA) // 64)


def test_little_is_asked_for_past_the_expected_end() -> None:
    ranges = Ranges()
    with open_ranges(ranges.read, len(DATA), 200) as file:
        file.seek(100)
        file.read(103)
    assert ranges.asked == [(100, 164), (164, 200), (200, 208)]


def test_of_a_footer_no_more_than_the_rest_of_the_file() -> None:
    ranges = Ranges()
    with open_ranges(ranges.read, len(DATA)) as file:
        file.seek(-8, io.SEEK_END)
        assert file.read(8) == DATA[-8:]
    assert ranges.asked == [(len(DATA) - 8, len(DATA))]
