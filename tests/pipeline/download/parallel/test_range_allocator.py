"""Range arithmetic: every byte is written once, by whomever, however workers come, steal, fail and go."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from config import MIB
from pipeline.download.parallel.range_allocator import (
    ALIGNMENT,
    LARGEST_PIECE,
    ByteRange,
    RangeAllocator,
    missing_ranges,
    piece_size,
)

spans = st.tuples(st.integers(0, 1000), st.integers(0, 1000)).map(lambda pair: ByteRange(min(pair), max(pair)))


@given(st.integers(1, 10**13), st.integers(1, 64 * MIB))
def test_pieces_follow_the_size_of_the_file(total: int, smallest: int) -> None:
    size = piece_size(total, smallest)
    assert size % ALIGNMENT == 0
    assert size >= smallest
    assert size < max(LARGEST_PIECE, smallest) + ALIGNMENT


@pytest.mark.parametrize(
    ("total", "size"), [(1, MIB), (64 * MIB, MIB), (512 * MIB, 8 * MIB), (4096 * MIB, 16 * MIB), (10**12, 16 * MIB)]
)
def test_models_have_large_pieces_and_songs_small_ones(total: int, size: int) -> None:
    assert piece_size(total) == size


@given(st.integers(0, 1000), st.lists(spans))
def test_what_is_missing_and_what_is_there_are_the_file(total: int, have: list[ByteRange]) -> None:
    gaps = list(missing_ranges(total, have))
    covered = {byte for start, end in have for byte in range(start, min(end, total))}
    lacking = [byte for start, end in gaps for byte in range(start, end)]
    assert len(lacking) == len(set(lacking))
    assert set(lacking) == set(range(total)) - covered
    assert all(before.end < after.start for before, after in pairwise(gaps))


class Allotting(RuleBasedStateMachine):
    """Any order of events, against a bitmap of what was written."""

    workers = Bundle("workers")

    def __init__(self) -> None:
        super().__init__()
        self.total = 40 * ALIGNMENT + 77
        self.allotment = RangeAllocator([ByteRange(0, self.total)])
        self.written: list[ByteRange] = []
        self.busy: set[int] = set()
        self.claimed: dict[int, ByteRange] = {}
        """Come, and not written yet."""
        self.names = 0

    @rule(
        target=workers, least=st.sampled_from([1, ALIGNMENT, 5 * ALIGNMENT]), lead=st.sampled_from([0, 7 * ALIGNMENT])
    )
    def hire(self, least: int, lead: int) -> int:
        self.names += 1
        can = self.allotment.can_take(least, lead)
        holding = self.allotment.take(self.names, least=least, lead=lead)
        assert (holding is not None) == can
        if holding is not None:
            assert holding.left > 0
            self.busy.add(self.names)
        return self.names

    @rule(
        count=st.integers(1, 5),
        least=st.sampled_from([1, ALIGNMENT]),
        lead=st.integers(0, 20 * ALIGNMENT),
        most=st.none() | st.integers(1, 5 * ALIGNMENT),
    )
    def cut(self, count: int, least: int, lead: int, most: int | None) -> None:
        self.allotment.cut(count, least=least, lead=lead, most=most)

    @rule(target=workers, rival=workers)
    def join(self, rival: int) -> int:
        self.names += 1
        can = self.allotment.joinable(rival, 3)
        holding = self.allotment.join(self.names, rival) if can else None
        assert bool(can) == (holding is not None)
        if holding is not None:
            assert holding.left > 0
            self.busy.add(self.names)
        return self.names

    @rule(worker=workers, received=st.integers(1, 6 * ALIGNMENT))
    def write(self, worker: int, received: int) -> None:
        self.receive(worker, received)
        self.finish(worker)

    @rule(worker=workers, received=st.integers(1, 6 * ALIGNMENT))
    def receive(self, worker: int, received: int) -> None:
        """It comes, and is being written: others may finish before it is."""
        if worker in self.busy and worker not in self.claimed:
            begin = self.allotment.held_by(worker).position
            span = self.allotment.claim(worker, received)
            assert span.size == 0 or begin <= span.start < span.end <= begin + received
            self.claimed[worker] = span

    @rule(worker=workers)
    def finish(self, worker: int) -> None:
        span = self.claimed.pop(worker, None)
        if span is not None and span.size:
            self.allotment.wrote(worker, span)
            self.written.append(span)

    @rule(worker=workers, received=st.integers(1, 6 * ALIGNMENT))
    def claim_and_fail(self, worker: int, received: int) -> None:
        """Claimed, but the disk or the process did not do it."""
        self.receive(worker, received)
        self.leave(worker)

    @rule(worker=workers, limit=st.integers(0, 41 * ALIGNMENT))
    def extend(self, worker: int, limit: int) -> None:
        if worker in self.busy:
            end = self.allotment.held_by(worker).end
            if self.allotment.extend(worker, limit):
                assert end == self.allotment.held_by(worker).position < self.allotment.held_by(worker).end <= limit

    @rule(worker=consumes(workers))
    def leave(self, worker: int) -> None:
        if worker in self.busy:
            self.busy.remove(worker)
            self.claimed.pop(worker, None)
            self.forget_what_is_given_up(worker)
            self.allotment.release(worker)

    @precondition(lambda self: self.written and not self.busy)
    @rule(data=st.data())
    def find_damage(self, data: st.DataObject) -> None:
        span = data.draw(st.sampled_from(self.written))
        self.written.remove(span)
        self.allotment.demand(span)

    def forget_what_is_given_up(self, worker: int) -> None:
        """What is written behind a hole that nobody fills any more is fetched again."""
        stretch = self.allotment.held_by(worker).stretch
        if stretch.workers == 1:
            self.written = [span for span in self.written if not stretch.written <= span.start < stretch.end]

    @invariant()
    def no_byte_is_lost_or_written_twice(self) -> None:
        stretches = {id(held.stretch): held.stretch for held in self.allotment._held.values()}.values()
        under_way = [ByteRange(stretch.written, stretch.end) for stretch in stretches if stretch.written < stretch.end]
        within = [span for span in self.written if any(start <= span.start < end for start, end in under_way)]
        parts = sorted([*(set(self.written) - set(within)), *self.allotment._free, *under_way])
        assert [start for start, _ in parts] == [0, *(end for _, end in parts[:-1])][: len(parts)]
        assert parts[-1].end == self.total
        assert all(before.end <= after.start for before, after in pairwise(sorted(within)))
        assert sorted(within) == sorted(span for stretch in stretches for span in stretch.ahead)

    @invariant()
    def the_counts_are_right(self) -> None:
        done = sum(span.size for span in self.written)
        assert self.allotment.missing == self.total - done
        low = self.allotment.low_water(self.total)
        assert sum(min(span.end, low) - min(span.start, low) for span in self.written) == low

    def teardown(self) -> None:
        """Whatever happened, one worker more brings it to its end."""
        for worker in tuple(self.busy):
            self.leave(worker)
        while self.allotment.take("last") is not None:
            while (span := self.allotment.claim("last", 10 * ALIGNMENT)).size:
                self.allotment.wrote("last", span)
                self.written.append(span)
            self.allotment.release("last")
        assert self.allotment.missing == 0
        assert list(missing_ranges(self.total, self.written)) == []


TestAllotting = pytest.mark.filterwarnings("default")(Allotting.TestCase)
TestAllotting.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_an_idle_worker_steals_the_back_half_of_the_largest_remainder() -> None:
    allotment = RangeAllocator([ByteRange(0, 64 * ALIGNMENT)])
    allotment.take("first")
    allotment.claim("first", 4 * ALIGNMENT)
    allotment.take("second")
    assert (allotment.held_by("first").end, allotment.held_by("second").start) == (34 * ALIGNMENT, 34 * ALIGNMENT)
    allotment.claim("second", 20 * ALIGNMENT)
    allotment.take("third")
    assert (allotment.held_by("first").end, allotment.held_by("third").end) == (19 * ALIGNMENT, 34 * ALIGNMENT)


def test_who_is_at_work_already_keeps_more_as_it_will_have_a_lead() -> None:
    allotment = RangeAllocator([ByteRange(0, 64 * ALIGNMENT)])
    allotment.take("first")
    allotment.claim("first", 4 * ALIGNMENT)
    allotment.take("second", lead=20 * ALIGNMENT)
    assert allotment.held_by("first").left == allotment.held_by("second").left + 20 * ALIGNMENT
    allotment.claim("first", 30 * ALIGNMENT)
    allotment.take("third", lead=20 * ALIGNMENT)
    assert allotment.held_by("second").left == allotment.held_by("third").left, "neither has begun"


def test_several_that_come_at_once_get_equal_parts() -> None:
    allotment = RangeAllocator([ByteRange(0, 40 * ALIGNMENT)])
    allotment.take("first")
    allotment.claim("first", 2 * ALIGNMENT)
    allotment.cut(2, lead=8 * ALIGNMENT)
    allotment.take("second")
    allotment.take("third")
    assert [allotment.held_by(name).left // ALIGNMENT for name in ("first", "second", "third")] == [18, 10, 10]


def test_those_that_are_only_tried_get_little() -> None:
    allotment = RangeAllocator([ByteRange(0, 40 * ALIGNMENT)])
    allotment.take("first")
    allotment.cut(3, most=2 * ALIGNMENT)
    assert [allotment.take(name) and allotment.held_by(name).left // ALIGNMENT for name in "abc"] == [2, 2, 2]
    assert allotment.held_by("first").left == 34 * ALIGNMENT


def test_what_is_free_counts_for_those_who_come() -> None:
    allotment = RangeAllocator([ByteRange(0, 8 * ALIGNMENT), ByteRange(10 * ALIGNMENT, 12 * ALIGNMENT)])
    allotment.take("first")
    allotment.cut(1)
    assert allotment.held_by("first").left == 8 * ALIGNMENT


def test_small_remainders_are_left_to_who_has_them() -> None:
    allotment = RangeAllocator([ByteRange(0, 4 * ALIGNMENT)])
    allotment.take("first")
    assert allotment.take("second", least=3 * ALIGNMENT) is None
    assert allotment.take("second", least=2 * ALIGNMENT) is not None


def test_what_was_read_beyond_a_stolen_end_counts_for_nobody() -> None:
    allotment = RangeAllocator([ByteRange(0, 4 * ALIGNMENT)])
    allotment.take("first")
    allotment.take("second")
    assert allotment.claim("first", 3 * ALIGNMENT) == ByteRange(0, 2 * ALIGNMENT)


def test_each_byte_is_the_one_that_came_first() -> None:
    allotment = RangeAllocator([ByteRange(0, 10)])
    allotment.take("late")
    allotment.wrote("late", allotment.claim("late", 2))
    allotment.join("quick", "late")
    assert allotment.held_by("quick").start == 2
    assert allotment.claim("quick", 5) == ByteRange(2, 7)
    assert allotment.claim("late", 6) == ByteRange(7, 8), "of 2 to 8"
    assert allotment.claim("quick", 3) == ByteRange(8, 10)
    assert allotment.held_by("late").left == 0, "nothing that it could still bring is wanted"


def test_a_hole_between_two_workers_is_a_hole_until_it_is_filled() -> None:
    allotment = RangeAllocator([ByteRange(0, 10)])
    allotment.take("one")
    allotment.join("other", "one")
    first, second = allotment.claim("one", 4), allotment.claim("other", 7)
    allotment.wrote("other", second)
    assert (allotment.low_water(10), allotment.missing) == (0, 7)
    allotment.wrote("one", first)
    assert (allotment.low_water(10), allotment.missing) == (7, 3)


def test_what_several_fetch_is_not_divided_and_goes_back_with_the_last() -> None:
    allotment = RangeAllocator([ByteRange(0, 40 * ALIGNMENT)])
    allotment.take("one")
    allotment.join("other", "one")
    assert not allotment.can_take()
    allotment.release("one")
    assert not allotment.can_take(40 * ALIGNMENT)
    allotment.release("other")
    assert allotment.take("third") is not None
