"""What members commit and hand out, over interleavings of receiving, finishing, failing, rebalances and deaths.

Two members and the group's commits at a broker, without a network. A member may own what it has lost without knowing
it yet (a zombie); the broker refuses its commits, as Kafka does for an old generation.
"""

from __future__ import annotations

import itertools
from collections import defaultdict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from kafka.structs import TopicPartition

from pipeline.errors import CancelledError, ErrorCode
from pipeline.transport.kafka.partitions import AssignedPartition, Assignment, BufferedMessage
from pipeline.transport.offsets import parse_metadata
from pipeline.transport.protocol import Delivery, Message

POSITIONS = (TopicPartition("jobs", 0), TopicPartition("jobs", 1), TopicPartition("retries", 0))
MEMBERS = (0, 1)

Taken = tuple[AssignedPartition, Delivery]


class RefusedError(Exception):
    """The broker does not take a commit of a member that is not the partition's owner."""


class Group(RuleBasedStateMachine):
    """The group, the log, and the commits."""

    @initialize(keys=st.lists(st.sampled_from("abc"), min_size=3, max_size=8))
    def publish(self, keys: list[str]) -> None:
        """The first member begins with everything, so that something is in hand from the start."""
        self.log = {position: [Message(position.topic, key, b"") for key in keys] for position in POSITIONS}
        self.commits = dict.fromkeys(POSITIONS, (0, ""))
        self.owners: dict[TopicPartition, int | None] = dict.fromkeys(POSITIONS, None)
        self.settled: dict[TopicPartition, set[int]] = defaultdict(set)
        self.members = {member: Assignment({}) for member in MEMBERS}
        self.fetched: dict[tuple[int, TopicPartition], int] = {}
        self.open: dict[int, list[Taken]] = {member: [] for member in MEMBERS}
        for position in POSITIONS:
            self.assign(position, 0, True)
            self.fetch_from(0, position, 3)

    # --- the broker ---

    def commit(self, member: int, partition: AssignedPartition) -> None:
        offset = self.members[member].committable(partition)
        if self.owners[partition.topic_partition] != member:
            self.members[member].commit_failed(partition)
            raise RefusedError
        self.commits[partition.topic_partition] = (offset.offset, offset.metadata)

    @rule(position=st.sampled_from(POSITIONS), member=st.sampled_from(MEMBERS), noticed=st.booleans())
    def assign(self, position: TopicPartition, member: int, noticed: bool) -> None:
        """The partition goes to ``member``; whoever had it has noticed, or has not yet."""
        before = self.owners[position]
        if before == member:
            return
        if before is not None and noticed:
            self.revoke(position)
        self.owners[position] = member
        self.members[member].drop([position])  # what it may have believed to own
        self.forget_lost(member)
        self.members[member].assign([position])
        self.fetched[member, position] = self.commits[position][0]

    @rule(position=st.sampled_from(POSITIONS))
    def revoke(self, position: TopicPartition) -> None:
        """In good order: attempts in hand are taken back first."""
        member = self.owners[position]
        if member is None:
            return
        for given_back, offset in self.members[member].cancel_open([position]).items():
            self.commits[given_back] = (offset.offset, offset.metadata)
        self.members[member].drop([position])
        self.owners[position] = None
        self.forget_lost(member)

    @rule(member=st.sampled_from(MEMBERS))
    def notice_losses(self, member: int) -> None:
        self.members[member].drop([position for position in POSITIONS if self.owners[position] != member])
        self.forget_lost(member)

    @rule(member=st.sampled_from(MEMBERS))
    def crash(self, member: int) -> None:
        self.members[member] = Assignment({})
        self.open[member] = []
        for position, owner in self.owners.items():
            if owner == member:
                self.owners[position] = None

    # --- a member ---

    @precondition(lambda self: any(owner is not None for owner in self.owners.values()))
    @rule(data=st.data(), count=st.integers(1, 4))
    def fetch(self, data: st.DataObject, count: int) -> None:
        owned = [position for position in POSITIONS if self.owners[position] is not None]
        position = data.draw(st.sampled_from(owned))
        member = self.owners[position]
        assert member is not None
        self.fetch_from(member, position, count)

    def fetch_from(self, member: int, position: TopicPartition, count: int) -> None:
        start = self.fetched[member, position]
        messages = list(enumerate(self.log[position]))[start : start + count]
        self.members[member].add_fetched(position, [BufferedMessage(offset, message) for offset, message in messages])
        self.fetched[member, position] = start + len(messages)
        for partition in self.members[member].awaiting_commit():
            self.members[member].set_committed(partition, parse_metadata(self.commits[partition.topic_partition][1]))

    @rule(member=st.sampled_from(MEMBERS))
    def receive(self, member: int) -> None:
        taken = self.members[member].take(0)
        if taken is None:
            return
        partition, delivery = taken
        held = [other for _, other in self.open[member]]
        assert not held or delivery.attempt == 1, "a suspect has company"
        assert all(other.attempt == 1 for other in held), "a suspect is given company"
        if self.owners[partition.topic_partition] == member:
            assert delivery.offset not in self.recorded(partition.topic_partition), "it was done before"
        same = [other for holder, other in self.open[member] if holder.topic_partition == partition.topic_partition]
        assert delivery.message.key not in {other.message.key for other in same}
        try:
            self.commit(member, partition)
        except (RefusedError, CancelledError):
            self.members[member].requeue(partition, delivery, count_attempt=False)
        else:
            self.open[member].append(taken)

    @precondition(lambda self: any(self.open.values()))
    @rule(data=st.data(), answered=st.booleans())
    def finish(self, data: st.DataObject, answered: bool) -> None:
        """The outputs are durable; the commit may not reach the broker, and then the member settles again."""
        member, (partition, delivery) = self.draw_open(data)
        try:
            assert self.members[member].require_owned(delivery) is partition
        except CancelledError:
            self.open[member].remove((partition, delivery))
            return
        self.settled[partition.topic_partition].add(delivery.offset)
        self.members[member].settle(partition, delivery)
        if answered:
            try:
                self.commit(member, partition)
            except RefusedError:
                return
            self.members[member].finish(partition, delivery)
            self.open[member].remove((partition, delivery))

    @precondition(lambda self: any(self.open.values()))
    @rule(data=st.data(), counted=st.booleans())
    def fail(self, data: st.DataObject, counted: bool) -> None:
        """The delivery is given back, unless it is settled but for its commit."""
        member, (partition, delivery) = self.draw_open(data)
        if delivery.offset in self.settled[partition.topic_partition]:
            return
        self.members[member].requeue(partition, delivery, count_attempt=counted)
        self.open[member].remove((partition, delivery))

    def draw_open(self, data: st.DataObject) -> tuple[int, Taken]:
        member = data.draw(st.sampled_from([member for member in MEMBERS if self.open[member]]))
        return member, data.draw(st.sampled_from(self.open[member]))

    def forget_lost(self, member: int) -> None:
        self.open[member] = [taken for taken in self.open[member] if self.still_holds(member, taken)]

    def still_holds(self, member: int, taken: Taken) -> bool:
        partition, delivery = taken
        try:
            return self.members[member].require_owned(delivery) is partition
        except CancelledError:
            assert delivery.cancel.reason is ErrorCode.DELIVERY_LOST, "its worker was not told"
            return False

    # --- what must hold ---

    @invariant()
    def no_commit_passes_an_unsettled_message(self) -> None:
        for position, (offset, _) in getattr(self, "commits", {}).items():
            assert set(range(offset)) <= self.settled[position]

    @invariant()
    def only_what_is_settled_is_on_record_as_settled(self) -> None:
        for position in getattr(self, "commits", {}):
            assert self.recorded(position) <= self.settled[position]

    def recorded(self, position: TopicPartition) -> set[int]:
        """What the group's commit says is settled above the low-water mark."""
        return set(itertools.chain.from_iterable(parse_metadata(self.commits[position][1]).settled))

    def teardown(self) -> None:
        """Whatever was before, a member that comes now gets all that is unsettled, and nothing is lost."""
        if not hasattr(self, "log"):
            return
        for member in MEMBERS:
            self.crash(member)
        last = MEMBERS[0]
        for position in POSITIONS:
            self.assign(position, last, True)
            self.fetch_from(last, position, len(self.log[position]))
        while (taken := self.members[last].take(0)) is not None:
            partition, delivery = taken
            self.settled[partition.topic_partition].add(delivery.offset)
            self.members[last].settle(partition, delivery)
            self.commit(last, partition)
            self.members[last].finish(partition, delivery)
        for position, messages in self.log.items():
            assert self.settled[position] == set(range(len(messages)))
            assert self.commits[position] == (len(messages), "")


TestGroup = Group.TestCase
TestGroup.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


class TestOnePartitionOfManyIsPaused:
    def test_only_partitions_with_waiting_messages_are_full(self) -> None:
        partitions = Assignment({})
        partitions.assign(POSITIONS)
        partitions.add_fetched(POSITIONS[1], [BufferedMessage(0, Message("jobs", "k", b""))])
        assert partitions.buffered == {POSITIONS[1]}

    def test_the_fault_of_the_client_is_raised_to_whoever_waits(self) -> None:
        partitions = Assignment({})
        partitions.set_fault(CancelledError("gone", code=ErrorCode.DELIVERY_LOST))
        with pytest.raises(CancelledError):
            partitions.take(0)
