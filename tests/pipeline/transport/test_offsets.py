"""Tests of the offset bookkeeping over random sequences of receive, begin, settle, release and crash."""

from __future__ import annotations

import json
import pickle
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.transport.offsets import METADATA_LIMIT, CommitMetadata, OffsetTracker, parse_metadata

#: Default limit of a broker for a commit's metadata, bytes (offset.metadata.max.bytes).
BROKER_LIMIT = 4096


class OnePartition(RuleBasedStateMachine):
    """A partition, the group's commit at the broker, and a consumer that may crash at any time."""

    @initialize(gaps=st.lists(st.integers(1, 3), min_size=1, max_size=15), first=st.integers(0, 1000))
    def publish(self, gaps: list[int], first: int) -> None:
        self.log = [first + sum(gaps[:n]) for n in range(len(gaps))]  # compaction leaves gaps
        self.committed: tuple[int, str] = (first, "")
        self.settled: set[int] = set()
        self.expected_attempts = dict.fromkeys(self.log, 0)
        self.start()

    def start(self) -> None:
        """Start a consumer from the commit."""
        self.tracker = OffsetTracker(parse_metadata(self.committed[1]))
        self.known_settled = {offset for run in parse_metadata(self.committed[1]).settled for offset in run}
        self.unread = [offset for offset in self.log if offset >= self.committed[0]]
        self.ready: list[int] = []
        self.open: set[int] = set()

    def commit(self) -> None:
        low_water = self.tracker.low_water
        assert low_water is not None
        self.committed = (low_water, self.tracker.metadata)

    @precondition(lambda self: self.unread)
    @rule()
    def receive(self) -> None:
        offset = self.unread.pop(0)
        # Messages that the previous consumer settled and committed as such are not processed again.
        assert self.tracker.receive(offset) == (offset not in self.known_settled)
        if offset not in self.known_settled:
            self.ready.append(offset)

    @rule(data=st.data())
    def receive_again(self, data: st.DataObject) -> None:
        known = [offset for offset in self.log if offset >= self.committed[0] and offset not in self.unread]
        if known:
            assert not self.tracker.receive(data.draw(st.sampled_from(known)))

    @precondition(lambda self: self.ready)
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(self.ready))
        self.ready.remove(offset)
        self.open.add(offset)
        attempt = self.tracker.begin(offset)
        # A settled message above the low-water mark may be delivered again after a crash; its count is irrelevant.
        if offset not in self.settled:
            self.expected_attempts[offset] += 1
            assert attempt == self.expected_attempts[offset]
        self.commit()

    @precondition(lambda self: self.open)
    @rule(data=st.data(), committed=st.booleans())
    def settle(self, data: st.DataObject, committed: bool) -> None:
        offset = data.draw(st.sampled_from(sorted(self.open)))
        self.open.remove(offset)
        self.settled.add(offset)
        self.tracker.settle(offset)
        if committed:
            self.commit()

    @precondition(lambda self: self.open)
    @rule(data=st.data(), counted=st.booleans())
    def release(self, data: st.DataObject, counted: bool) -> None:
        offset = data.draw(st.sampled_from(sorted(self.open)))
        self.open.remove(offset)
        self.ready.append(offset)
        if not counted:
            self.tracker.undo_attempt(offset)
            self.expected_attempts[offset] -= offset not in self.settled
        self.commit()

    @rule()
    def crash(self) -> None:
        self.start()

    @precondition(lambda self: self.tracker.low_water is not None)
    @rule()
    def leave_the_group(self) -> None:
        for offset in self.open:
            self.tracker.undo_attempt(offset)
            self.expected_attempts[offset] -= offset not in self.settled
        self.commit()
        self.start()

    @invariant()
    def committed_offset_is_below_every_unsettled_message(self) -> None:
        assert all(offset in self.settled for offset in self.log if offset < self.committed[0])

    @invariant()
    def low_water_mark_is_below_every_unsettled_message(self) -> None:
        low_water = self.tracker.low_water
        if low_water is not None:
            assert all(offset in self.settled for offset in self.log if offset < low_water)

    @invariant()
    def attempts_at_outstanding_messages_are_committed(self) -> None:
        recorded = parse_metadata(self.committed[1]).attempts
        for offset, attempts in self.expected_attempts.items():
            if offset not in self.settled:
                assert recorded.get(offset, 0) == attempts

    @invariant()
    def metadata_contains_no_offset_below_the_mark(self) -> None:
        committed = parse_metadata(self.committed[1])
        assert all(offset >= self.committed[0] for offset in committed.attempts)
        assert all(run.start >= self.committed[0] for run in committed.settled)

    @invariant()
    def metadata_lists_only_settled_messages(self) -> None:
        recorded = {offset for run in parse_metadata(self.committed[1]).settled for offset in run}
        assert recorded & set(self.log) <= self.settled


TestOnePartition = OnePartition.TestCase

counts = st.dictionaries(st.integers(0, 2**63 - 1), st.integers(1, 1000), max_size=20)


class TestMetadata:
    @given(counts)
    def test_metadata_round_trip(self, attempts: dict[int, int]) -> None:
        assert parse_metadata(OffsetTracker(CommitMetadata(attempts)).metadata).attempts == attempts

    def test_metadata_is_empty_without_content(self) -> None:
        assert OffsetTracker(CommitMetadata()).metadata == ""

    @given(
        st.none()
        | st.text()
        | st.from_type(type(None))
        | counts.map(str)
        | st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["attempts", "settled"]), inner)
            ),
        ).map(json.dumps)
    )
    def test_unknown_metadata_is_ignored(self, metadata: str | None) -> None:
        committed = parse_metadata(metadata)
        assert all(isinstance(offset, int) and isinstance(count, int) for offset, count in committed.attempts.items())
        assert all(isinstance(run, range) for run in committed.settled)

    def test_settled_message_is_listed_until_all_before_it_are_settled(self) -> None:
        tracker = OffsetTracker(CommitMetadata())
        for offset in (1, 2, 3):
            tracker.receive(offset)
        for offset in (3, 2):
            tracker.begin(offset)
            tracker.settle(offset)
        assert parse_metadata(tracker.metadata) == CommitMetadata({}, (range(2, 4),))
        tracker.begin(1)
        tracker.settle(1)
        assert (tracker.low_water, tracker.metadata) == (4, "")

    def test_new_owner_skips_settled_messages(self) -> None:
        tracker = OffsetTracker(CommitMetadata({}, (range(2, 4),)))
        assert [offset for offset in (1, 2, 3, 4) if tracker.receive(offset)] == [1, 4]

    def test_new_owner_skips_them_although_those_before_are_settled(self) -> None:
        tracker = OffsetTracker(CommitMetadata({}, (range(2, 4),)))
        tracker.receive(1)
        tracker.settle(1)
        assert [offset for offset in (2, 3, 4) if tracker.receive(offset)] == [4]

    def test_topic_and_time_of_the_commit_are_recorded(self) -> None:
        before = int(time.time())
        committed = parse_metadata(OffsetTracker(CommitMetadata(), "a topic").metadata)
        assert committed.topic_id == "a topic"
        assert committed.written_at is not None
        assert before <= committed.written_at <= time.time()

    @pytest.mark.parametrize(
        "text", [None, "", '{"topic": 5, "at": 1}', '{"topic": "x", "at": "y"}', '{"topic": "x", "at": 1.5}']
    )
    def test_metadata_with_another_type_of_topic_or_time_is_ignored(self, text: str | None) -> None:
        assert parse_metadata(text) == CommitMetadata()

    def test_expired_message_is_not_listed(self) -> None:
        tracker = OffsetTracker(CommitMetadata({7: 1}))
        tracker.receive(9)
        assert tracker.metadata == ""

    def test_metadata_of_a_hundred_open_jobs_fits(self) -> None:
        tracker = OffsetTracker(CommitMetadata())
        for offset in range(10**9, 10**9 + 100):
            tracker.receive(offset)
            tracker.begin(offset)
        assert len(tracker.metadata) < BROKER_LIMIT

    def test_metadata_of_thousands_of_contiguous_settled_messages_fits(self) -> None:
        tracker = OffsetTracker(CommitMetadata())
        for offset in range(10**9, 10**9 + 5000):
            tracker.receive(offset)
        for offset in range(10**9 + 1, 10**9 + 5000):
            tracker.settle(offset)
        assert len(tracker.metadata) < 100

    def test_ranges_that_do_not_fit_are_left_out(self) -> None:
        tracker = OffsetTracker(CommitMetadata())
        for offset in range(10**9, 10**9 + 5000):
            tracker.receive(offset)
        tracker.begin(10**9)
        for offset in range(10**9 + 1, 10**9 + 5000, 2):
            tracker.settle(offset)
        assert METADATA_LIMIT / 2 < len(tracker.metadata) <= METADATA_LIMIT < BROKER_LIMIT
        assert parse_metadata(tracker.metadata).attempts == {10**9: 1}


class TestAttempts:
    def test_message_is_suspect_after_an_attempt_without_an_outcome(self) -> None:
        tracker = OffsetTracker(CommitMetadata({8: 1}))
        assert [tracker.is_suspect(offset) for offset in (7, 8)] == [False, True]
        tracker.receive(7)
        tracker.begin(7)
        assert tracker.is_suspect(7)
        tracker.undo_attempt(7)
        assert not tracker.is_suspect(7)

    def test_attempt_that_was_never_begun_can_be_undone(self) -> None:
        tracker = OffsetTracker(CommitMetadata())
        tracker.receive(7)
        tracker.undo_attempt(7)
        assert (tracker.begin(7), tracker.low_water) == (1, 7)

    def test_settled_messages_take_no_memory(self) -> None:
        tracker = OffsetTracker(CommitMetadata())
        for offset in range(10_000):
            tracker.receive(offset)
            tracker.begin(offset)
            tracker.settle(offset)
        assert len(pickle.dumps(tracker)) < 1000


class TestLowWater:
    def test_none_before_the_first_message(self) -> None:
        assert OffsetTracker(CommitMetadata()).low_water is None

    def test_offset_after_the_last_message_once_all_are_settled(self) -> None:
        tracker = OffsetTracker(CommitMetadata())
        tracker.receive(41)
        assert tracker.low_water == 41
        tracker.begin(41)
        tracker.settle(41)
        assert tracker.low_water == 42
