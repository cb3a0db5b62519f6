"""Range arithmetic: every byte is written once, in whatever order workers start, split, share, fail and end."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from pipeline.download.parallel.range_allocator import (
    ALIGNMENT,
    Assignment,
    ByteRange,
    RangeAllocator,
    missing_ranges,
)

spans = st.tuples(st.integers(0, 1000), st.integers(0, 1000)).map(lambda pair: ByteRange(min(pair), max(pair)))


@given(st.integers(0, 1000), st.lists(spans))
def test_missing_and_present_ranges_add_up_to_the_file(total: int, present: list[ByteRange]) -> None:
    gaps = list(missing_ranges(total, present))
    covered = {byte for start, end in present for byte in range(start, min(end, total))}
    missing = [byte for start, end in gaps for byte in range(start, end)]
    assert len(missing) == len(set(missing))
    assert set(missing) == set(range(total)) - covered
    assert all(before.end < after.start for before, after in pairwise(gaps))


class AllocatorMachine(RuleBasedStateMachine):
    """Any order of events, compared with a model of the written bytes."""

    assignments = Bundle("assignments")

    def __init__(self) -> None:
        super().__init__()
        self.total = 40 * ALIGNMENT + 77
        self.allocator = RangeAllocator([ByteRange(0, self.total)])
        self.written: list[ByteRange] = []
        self.busy: list[Assignment] = []
        self.claimed: dict[Assignment, int] = {}
        """Received, and not written yet."""

    @rule(
        count=st.integers(1, 5),
        min_split=st.sampled_from([ALIGNMENT, 2 * ALIGNMENT, 5 * ALIGNMENT]),
        lead=st.integers(0, 20 * ALIGNMENT),
        max_bytes=st.none() | st.integers(1, 5 * ALIGNMENT),
    )
    def split(self, count: int, min_split: int, lead: int, max_bytes: int | None) -> None:
        self.allocator.min_split, self.allocator.lead = min_split, lead
        self.allocator.split(count, max_bytes=max_bytes)

    @rule(target=assignments)
    def take(self) -> object:
        return self._started(self.allocator.take())

    @rule(target=assignments, other=assignments)
    def share(self, other: Assignment) -> object:
        return self._started(self.allocator.share(other, 0.0) if other in self.busy and other.remaining else None)

    def _started(self, assignment: Assignment | None) -> object:
        if assignment is None:
            return multiple()
        assert assignment.remaining > 0
        self.busy.append(assignment)
        return assignment

    @rule(assignment=assignments, received=st.integers(1, 6 * ALIGNMENT))
    def write(self, assignment: Assignment, received: int) -> None:
        self.receive(assignment, received)
        self.finish(assignment)

    @rule(assignment=assignments, received=st.integers(1, 6 * ALIGNMENT))
    def receive(self, assignment: Assignment, received: int) -> None:
        """Bytes arrive, and other workers may finish before these are written."""
        if assignment in self.busy and assignment not in self.claimed:
            begin = assignment.position
            count = self.allocator.claim(assignment, received)
            assert 0 <= count <= received
            assert assignment.position == begin + count <= max(begin, assignment.end)
            self.claimed[assignment] = count

    @rule(assignment=assignments)
    def finish(self, assignment: Assignment) -> None:
        if count := self.claimed.pop(assignment, 0):
            self.written.append(ByteRange(assignment.position - count, assignment.position))
            self.allocator.wrote(assignment, assignment.position)

    @rule(assignment=assignments, received=st.integers(1, 6 * ALIGNMENT))
    def claim_and_fail(self, assignment: Assignment, received: int) -> None:
        """Bytes are claimed, but writing them fails."""
        self.receive(assignment, received)
        self.release(assignment)

    @rule(assignment=consumes(assignments))
    def release(self, assignment: Assignment) -> None:
        if assignment in self.busy:
            self.busy.remove(assignment)
            self.claimed.pop(assignment, None)
            self.allocator.release(assignment)

    @invariant()
    def exactly_the_unwritten_bytes_are_free_or_assigned(self) -> None:
        segments = {id(assignment.segment): assignment.segment for assignment in self.busy}.values()
        in_progress = [ByteRange(segment.written, segment.end) for segment in segments if segment.written < segment.end]
        unwritten = sorted([*self.allocator._free, *in_progress])
        assert all(before.end <= after.start for before, after in pairwise(unwritten))
        missing = {byte for span in missing_ranges(self.total, self.written) for byte in (span.start, span.end)}
        edges = [byte for span in unwritten for byte in span]
        assert missing == {byte for byte in edges if edges.count(byte) == 1}

    @invariant()
    def counts_are_right(self) -> None:
        assert self.allocator.missing == sum(span.size for span in missing_ranges(self.total, self.written))

    def teardown(self) -> None:
        """After any sequence of events, one more worker completes the file."""
        for assignment in tuple(self.busy):
            self.release(assignment)
        while (last := self.allocator.take()) is not None:
            while count := self.allocator.claim(last, 10 * ALIGNMENT):
                self.allocator.wrote(last, last.position)
                self.written.append(ByteRange(last.position - count, last.position))
            self.allocator.release(last)
        assert self.allocator.missing == 0
        assert list(missing_ranges(self.total, self.written)) == []


TestAllocator = pytest.mark.filterwarnings("default")(AllocatorMachine.TestCase)
TestAllocator.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def taken(allocator: RangeAllocator) -> Assignment:
    """Return the next assignment, after a split if nothing is free."""
    allocator.split(1)
    assignment = allocator.take()
    assert assignment is not None
    return assignment


def test_largest_remainder_is_split_in_halves() -> None:
    allocator = RangeAllocator([ByteRange(0, 64 * ALIGNMENT)])
    first = taken(allocator)
    allocator.claim(first, 4 * ALIGNMENT)
    second = taken(allocator)
    assert (first.end, second.start) == (34 * ALIGNMENT, 34 * ALIGNMENT)
    allocator.claim(second, 20 * ALIGNMENT)
    third = taken(allocator)
    assert (first.end, third.end) == (19 * ALIGNMENT, 34 * ALIGNMENT)


def test_delivering_connection_keeps_its_lead() -> None:
    allocator = RangeAllocator([ByteRange(0, 64 * ALIGNMENT)])
    allocator.lead = 20 * ALIGNMENT
    first = taken(allocator)
    allocator.claim(first, 4 * ALIGNMENT)
    second = taken(allocator)
    assert first.remaining == second.remaining + 20 * ALIGNMENT
    allocator.claim(first, 30 * ALIGNMENT)
    third = taken(allocator)
    assert second.remaining == third.remaining, "neither delivers yet"


def test_several_new_workers_get_equal_parts() -> None:
    allocator = RangeAllocator([ByteRange(0, 40 * ALIGNMENT)])
    allocator.lead = 8 * ALIGNMENT
    first = taken(allocator)
    allocator.claim(first, 2 * ALIGNMENT)
    allocator.split(2)
    others = [taken(allocator), taken(allocator)]
    assert [part.remaining // ALIGNMENT for part in (first, *others)] == [18, 10, 10]


def test_parts_of_a_trial_are_limited() -> None:
    allocator = RangeAllocator([ByteRange(0, 40 * ALIGNMENT)])
    first = taken(allocator)
    allocator.split(3, max_bytes=2 * ALIGNMENT)
    assert [taken(allocator).remaining // ALIGNMENT for _ in range(3)] == [2, 2, 2]
    assert first.remaining == 34 * ALIGNMENT


def test_free_ranges_are_used_before_a_split() -> None:
    allocator = RangeAllocator([ByteRange(0, 8 * ALIGNMENT), ByteRange(10 * ALIGNMENT, 12 * ALIGNMENT)])
    first = taken(allocator)
    allocator.split(1)
    assert first.remaining == 8 * ALIGNMENT


def test_small_remainders_are_not_split() -> None:
    allocator = RangeAllocator([ByteRange(0, 4 * ALIGNMENT)])
    taken(allocator)
    allocator.min_split = 3 * ALIGNMENT
    allocator.split(1)
    assert allocator.take() is None
    allocator.min_split = 2 * ALIGNMENT
    assert taken(allocator) is not None


def test_bytes_beyond_a_split_end_are_not_claimed() -> None:
    allocator = RangeAllocator([ByteRange(0, 4 * ALIGNMENT)])
    first = taken(allocator)
    taken(allocator)
    assert allocator.claim(first, 3 * ALIGNMENT) == 2 * ALIGNMENT


def test_bytes_that_were_not_written_are_freed() -> None:
    allocator = RangeAllocator([ByteRange(0, 10)])
    first = taken(allocator)
    allocator.claim(first, 4)
    allocator.wrote(first, 4)
    allocator.claim(first, 3)  # writing these fails
    allocator.release(first)
    second = taken(allocator)
    assert (second.start, second.end, allocator.missing) == (4, 10, 6)


def test_shared_byte_counts_once() -> None:
    allocator = RangeAllocator([ByteRange(0, 10)])
    late = taken(allocator)
    allocator.claim(late, 2)
    allocator.wrote(late, 2)
    quick = allocator.share(late, 0.0)
    assert quick.start == 2
    allocator.claim(quick, 5)
    allocator.wrote(quick, 7)
    allocator.claim(late, 3)
    allocator.wrote(late, 5)
    assert allocator.missing == 3
    allocator.claim(quick, 3)
    allocator.wrote(quick, 10)
    assert (late.remaining, allocator.missing) == (0, 0), "nothing that it could still receive is needed"


def test_shared_range_is_not_split_and_is_freed_with_its_last_worker() -> None:
    allocator = RangeAllocator([ByteRange(0, 40 * ALIGNMENT)])
    one = taken(allocator)
    other = allocator.share(one, 0.0)
    allocator.split(1)
    assert allocator.take() is None
    allocator.release(one)
    assert allocator.take() is None
    allocator.release(other)
    assert allocator.take() is not None
