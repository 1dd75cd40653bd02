"""Which files are taken, and when: by a fake clock and made-up listings, against a reference that looks at the whole
history of a file."""

from collections.abc import Callable, Mapping

from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Watch
from pipeline.readers.files import Stamp
from pipeline.readers.listing import Match
from pipeline.watch.look import Look
from pipeline.watch.loop import repeat_rounds
from pipeline.watch.stop import StopRequest
from pipeline.watch.waiting import Place, complete_files, due_files, look_again

History = list[dict[Place, Stamp]]
"""What each look finds."""

PLACES = [(0, "a"), (0, "b"), (1, "a")]
STAMPS = st.builds(Stamp, st.integers(0, 2), st.none(), st.sampled_from(["1", "2"]))
HISTORIES = st.lists(st.dictionaries(st.sampled_from(PLACES), STAMPS), min_size=1, max_size=8)
MARKS = st.lists(st.sets(st.sampled_from(PLACES)), min_size=8, max_size=8)


def complete_since(history: History, marks: list[set[Place]] | None, place: Place) -> int | None:
    """The reference: the first of the looks since which the file has been complete and the same, up to the last."""
    since = None
    for number, found in enumerate(history):
        before = history[number - 1] if number else {}
        same = place in found and before.get(place) == found[place]
        whole = place in marks[number] if marks else same and found[place].size > 0
        if place not in found or not whole:
            since = None
        elif since is None or not same:
            since = number
    return since


@given(HISTORIES, st.none() | MARKS)
def test_a_file_is_complete_if_two_looks_agree_or_it_is_marked(
    history: History, marks: list[set[Place]] | None
) -> None:
    waiting = {}
    for number, found in enumerate(history):
        waiting = look_again(waiting, found, marks and marks[number], float(number))
        expected = {place: complete_since(history[: number + 1], marks, place) for place in found}
        assert {place: file.complete_since for place, file in waiting.items()} == expected
        assert list(waiting) == list(found)
        assert complete_files(waiting) == [place for place in found if expected[place] is not None]


def wait_for(sizes: Mapping[str, int], settings: Watch, *, ages: Mapping[str, float]) -> list[Place]:
    """What is due of complete files of these sizes, each complete for so many seconds."""
    waiting = {}
    for name, size in sizes.items():
        waiting |= look_again({}, {(0, name): Stamp(size, None, "1")}, {(0, name)}, 100 - ages[name])
    return due_files(waiting, settings, 100)


def test_files_are_gathered_until_they_are_many_or_old() -> None:
    settings = Watch(min_bytes=10, max_wait=60)
    assert wait_for({"a": 4, "b": 5}, settings, ages={"a": 59, "b": 0}) == []
    assert wait_for({"a": 4, "b": 5}, settings, ages={"a": 60, "b": 0}) == [(0, "a"), (0, "b")]
    assert wait_for({"a": 4, "b": 6}, settings, ages={"a": 1, "b": 0}) == [(0, "a"), (0, "b")]
    assert wait_for({"a": 1}, Watch(), ages={"a": 0}) == [(0, "a")]
    assert wait_for({}, Watch(), ages={}) == []


class FakeTime(StopRequest):
    """A clock that goes on by what is waited for, until so many looks were taken."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def clock(self) -> float:
        return self.now


def watched(
    history: History, settings: Watch, *, once: bool = False, during: Callable[[FakeTime], None] = lambda _: None
) -> list[tuple[float, dict[str, int]]]:
    """The rounds over a history: when each was, and the names and sizes of the files that it took. `during` happens in
    each round."""
    time, taken, rounds = FakeTime(), set[Place](), list[tuple[float, dict[str, int]]]()
    looks = iter(history)

    def look() -> Look:
        found = next(looks, None)
        if found is None:
            time.ask()
        files = {
            place: Match(place[1], place[1], stamp) for place, stamp in (found or {}).items() if place not in taken
        }
        return Look(files, None)

    def take(files: Mapping[Place, Match]) -> None:
        taken.update(files)
        rounds.append((time.now, {match.url: match.stamp.size for match in files.values()}))
        during(time)

    repeat_rounds(settings, look, take, time, once=once, clock=time.clock)
    return rounds


def growing(*sizes: Mapping[str, int]) -> History:
    return [{(0, name): Stamp(size, None, "1") for name, size in found.items()} for found in sizes]


def test_rounds_take_each_file_once_when_it_has_settled() -> None:
    history = growing(
        {"a": 5}, {"a": 7, "b": 2}, {"a": 7, "b": 3}, {"a": 7, "b": 3}, {"a": 7, "b": 3, "c": 0}, {"c": 0}
    )
    assert watched(history, Watch(interval=10)) == [(20, {"a": 7}), (30, {"b": 3})]


def test_rounds_gather() -> None:
    history = growing(*({"a": 4} for _ in range(3)), *({"a": 4, "b": 4, "c": 4} for _ in range(5)), *[{"d": 1}] * 9)
    settings = Watch(interval=10, min_bytes=10, max_wait=35)
    assert watched(history, settings) == [(40, {"a": 4, "b": 4, "c": 4}), (130, {"d": 1})]


def test_once_takes_what_is_complete_by_the_second_look() -> None:
    history = growing({"a": 5, "b": 1}, {"a": 5, "b": 2}, {"a": 5, "b": 2})
    assert watched(history, Watch(interval=10, min_bytes=100), once=True) == [(10, {"a": 5})]
    assert watched(growing({}, {}), Watch(), once=True) == []


def test_a_wish_to_stop_ends_after_the_round() -> None:
    history = growing({"a": 5}, {"a": 5}, {"b": 5}, {"b": 5})
    assert len(watched(history, Watch())) == 2
    assert len(watched(history, Watch(), during=FakeTime.ask)) == 1
