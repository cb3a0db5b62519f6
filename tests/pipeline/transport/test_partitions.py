"""Tests of the assignment over random sequences of receive, finish, fail, rebalance and crash.

Two members and the group's commits at a broker, without a network. A member may not have detected yet that it lost a
partition (a zombie); the broker rejects its commits, as Kafka does for an old generation.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from kafka.structs import TopicPartition

from pipeline.errors import CancelledError, ErrorCode
from pipeline.transport.kafka.partitions import (
    AssignedPartition,
    BufferedMessage,
    PartitionAssignment,
    UnverifiedLogError,
)
from pipeline.transport.offsets import CommitMetadata, parse_metadata
from pipeline.transport.protocol import Delivery, Message

TOPIC_PARTITIONS = (TopicPartition("jobs", 0), TopicPartition("jobs", 1), TopicPartition("retries", 0))
MEMBERS = (0, 1)

Taken = tuple[AssignedPartition, Delivery]


class CommitRejectedError(Exception):
    """The broker rejected the commit of a member that does not own the partition."""


class Group(RuleBasedStateMachine):
    """The group, the log, and the commits."""

    @initialize(keys=st.lists(st.sampled_from("abc"), min_size=3, max_size=8))
    def publish(self, keys: list[str]) -> None:
        """Assign all partitions to the first member, so that there are messages from the start."""
        self.log = {
            topic_partition: [Message(topic_partition.topic, key, b"") for key in keys]
            for topic_partition in TOPIC_PARTITIONS
        }
        self.commits = dict.fromkeys(TOPIC_PARTITIONS, (0, ""))
        self.owners: dict[TopicPartition, int | None] = dict.fromkeys(TOPIC_PARTITIONS, None)
        self.settled: dict[TopicPartition, set[int]] = defaultdict(set)
        self.members = {member: PartitionAssignment({}) for member in MEMBERS}
        self.fetched: dict[tuple[int, TopicPartition], int] = {}
        self.open: dict[int, list[Taken]] = {member: [] for member in MEMBERS}
        for topic_partition in TOPIC_PARTITIONS:
            self.assign(topic_partition, 0, True)
            self.fetch_from(0, topic_partition, 3)

    # --- the broker ---

    def commit(self, member: int, partition: AssignedPartition) -> None:
        offset = self.members[member].committable(partition)
        if self.owners[partition.topic_partition] != member:
            self.members[member].commit_failed(partition)
            raise CommitRejectedError
        self.commits[partition.topic_partition] = (offset.offset, offset.metadata)

    @rule(topic_partition=st.sampled_from(TOPIC_PARTITIONS), member=st.sampled_from(MEMBERS), detected=st.booleans())
    def assign(self, topic_partition: TopicPartition, member: int, detected: bool) -> None:
        """Move the partition to ``member``; its previous owner has detected the loss if ``detected``."""
        before = self.owners[topic_partition]
        if before == member:
            return
        if before is not None and detected:
            self.revoke(topic_partition)
        self.owners[topic_partition] = member
        self.members[member].drop([topic_partition])  # partitions that it has lost without detecting it
        self.remove_lost(member)
        self.members[member].assign([topic_partition])
        self.fetched[member, topic_partition] = self.commits[topic_partition][0]

    @rule(topic_partition=st.sampled_from(TOPIC_PARTITIONS))
    def revoke(self, topic_partition: TopicPartition) -> None:
        """Revoke the partition cooperatively: the attempts in progress are taken back first."""
        member = self.owners[topic_partition]
        if member is None:
            return
        for given_back, offset in self.members[member].cancel_open([topic_partition]).items():
            self.commits[given_back] = (offset.offset, offset.metadata)
        self.members[member].drop([topic_partition])
        self.owners[topic_partition] = None
        self.remove_lost(member)

    @rule(member=st.sampled_from(MEMBERS))
    def detect_losses(self, member: int) -> None:
        self.members[member].drop(
            [topic_partition for topic_partition in TOPIC_PARTITIONS if self.owners[topic_partition] != member]
        )
        self.remove_lost(member)

    @rule(member=st.sampled_from(MEMBERS))
    def crash(self, member: int) -> None:
        self.members[member] = PartitionAssignment({})
        self.open[member] = []
        for topic_partition, owner in self.owners.items():
            if owner == member:
                self.owners[topic_partition] = None

    # --- a member ---

    @precondition(lambda self: any(owner is not None for owner in self.owners.values()))
    @rule(data=st.data(), count=st.integers(1, 4))
    def fetch(self, data: st.DataObject, count: int) -> None:
        owned = [topic_partition for topic_partition in TOPIC_PARTITIONS if self.owners[topic_partition] is not None]
        topic_partition = data.draw(st.sampled_from(owned))
        member = self.owners[topic_partition]
        assert member is not None
        self.fetch_from(member, topic_partition, count)

    def fetch_from(self, member: int, topic_partition: TopicPartition, count: int) -> None:
        start = self.fetched[member, topic_partition]
        messages = list(enumerate(self.log[topic_partition]))[start : start + count]
        self.members[member].add_fetched(
            topic_partition, [BufferedMessage(offset, message) for offset, message in messages]
        )
        self.fetched[member, topic_partition] = start + len(messages)
        for partition in self.members[member].awaiting_commit():
            self.members[member].set_committed(partition, parse_metadata(self.commits[partition.topic_partition][1]))

    @rule(member=st.sampled_from(MEMBERS))
    def receive(self, member: int) -> None:
        taken = self.members[member].take(0)
        if taken is None:
            return
        partition, delivery = taken
        held = [other for _, other in self.open[member]]
        assert not held or delivery.attempt == 1, "a suspect is delivered beside other messages"
        assert all(other.attempt == 1 for other in held), "a message is delivered beside a suspect"
        if self.owners[partition.topic_partition] == member:
            assert delivery.offset not in self.recorded(partition.topic_partition), "the message was settled before"
        same = [other for holder, other in self.open[member] if holder.topic_partition == partition.topic_partition]
        assert delivery.message.key not in {other.message.key for other in same}
        try:
            self.commit(member, partition)
        except (CommitRejectedError, CancelledError):
            self.members[member].requeue(partition, delivery, count_attempt=False)
        else:
            self.open[member].append(taken)

    @precondition(lambda self: any(self.open.values()))
    @rule(data=st.data(), answered=st.booleans())
    def finish(self, data: st.DataObject, answered: bool) -> None:
        """Settle a delivery; if the commit does not reach the broker, the member settles again."""
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
            except CommitRejectedError:
                return
            self.members[member].finish(partition, delivery)
            self.open[member].remove((partition, delivery))

    @precondition(lambda self: any(self.open.values()))
    @rule(data=st.data(), counted=st.booleans())
    def fail(self, data: st.DataObject, counted: bool) -> None:
        """Release a delivery, unless only its commit is missing."""
        member, (partition, delivery) = self.draw_open(data)
        if delivery.offset in self.settled[partition.topic_partition]:
            return
        self.members[member].requeue(partition, delivery, count_attempt=counted)
        self.open[member].remove((partition, delivery))

    def draw_open(self, data: st.DataObject) -> tuple[int, Taken]:
        member = data.draw(st.sampled_from([member for member in MEMBERS if self.open[member]]))
        return member, data.draw(st.sampled_from(self.open[member]))

    def remove_lost(self, member: int) -> None:
        self.open[member] = [taken for taken in self.open[member] if self.still_owns(member, taken)]

    def still_owns(self, member: int, taken: Taken) -> bool:
        partition, delivery = taken
        try:
            return self.members[member].require_owned(delivery) is partition
        except CancelledError:
            assert delivery.cancel.reason is ErrorCode.DELIVERY_LOST, "its worker was not cancelled"
            return False

    # --- invariants ---

    @invariant()
    def committed_offset_is_below_every_unsettled_message(self) -> None:
        for topic_partition, (offset, _) in getattr(self, "commits", {}).items():
            assert set(range(offset)) <= self.settled[topic_partition]

    @invariant()
    def metadata_lists_only_settled_messages(self) -> None:
        for topic_partition in getattr(self, "commits", {}):
            assert self.recorded(topic_partition) <= self.settled[topic_partition]

    def recorded(self, topic_partition: TopicPartition) -> set[int]:
        """Return the settled offsets above the low-water mark in the group's commit."""
        return set(itertools.chain.from_iterable(parse_metadata(self.commits[topic_partition][1]).settled))

    def teardown(self) -> None:
        """Check that a new member receives all unsettled messages, after any history."""
        if not hasattr(self, "log"):
            return
        for member in MEMBERS:
            self.crash(member)
        last = MEMBERS[0]
        for topic_partition in TOPIC_PARTITIONS:
            self.assign(topic_partition, last, True)
            self.fetch_from(last, topic_partition, len(self.log[topic_partition]))
        while (taken := self.members[last].take(0)) is not None:
            partition, delivery = taken
            self.settled[partition.topic_partition].add(delivery.offset)
            self.members[last].settle(partition, delivery)
            self.commit(last, partition)
            self.members[last].finish(partition, delivery)
        for topic_partition, messages in self.log.items():
            assert self.settled[topic_partition] == set(range(len(messages)))
            assert self.commits[topic_partition] == (len(messages), "")


TestGroup = Group.TestCase
TestGroup.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


class TestAssignment:
    def test_partitions_with_buffered_messages(self) -> None:
        assignment = PartitionAssignment({})
        assignment.assign(TOPIC_PARTITIONS)
        assignment.add_fetched(TOPIC_PARTITIONS[1], [BufferedMessage(0, Message("jobs", "k", b""))])
        assert assignment.buffered == {TOPIC_PARTITIONS[1]}

    def test_take_raises_the_fault(self) -> None:
        assignment = PartitionAssignment({})
        assignment.set_fault(CancelledError("lost", code=ErrorCode.DELIVERY_LOST))
        with pytest.raises(CancelledError):
            assignment.take(0)


def begun(*messages: Message) -> tuple[PartitionAssignment, AssignedPartition, Delivery]:
    """Return the assignment of one partition with these messages, of which the first has begun."""
    assignment = PartitionAssignment({})
    assignment.assign([TOPIC_PARTITIONS[0]])
    assignment.set_committed(assignment.owned[0], CommitMetadata())
    assignment.add_fetched(
        TOPIC_PARTITIONS[0], [BufferedMessage(offset, message) for offset, message in enumerate(messages)]
    )
    taken = assignment.take(0)
    assert taken is not None
    return assignment, *taken


def restarted(assignment: PartitionAssignment, topic_partition: TopicPartition) -> None:
    assignment.restart(topic_partition, "another log")


def revoked(assignment: PartitionAssignment, topic_partition: TopicPartition) -> None:
    assignment.cancel_open([topic_partition])
    assignment.drop([topic_partition])


@pytest.mark.parametrize("lose", [restarted, revoked])
@pytest.mark.parametrize("committed", [False, True])
def test_message_is_held_until_its_offset_is_durable(
    lose: Callable[[PartitionAssignment, TopicPartition], None], committed: bool
) -> None:
    """A broker restored from an older copy loses the outputs and the message alike."""
    topic_partition, message = TOPIC_PARTITIONS[0], Message("jobs", "k", b"job")
    assignment, partition, delivery = begun(message)
    partition.published.add(delivery.offset)
    assignment.settle(partition, delivery)
    if committed:
        assignment.finish(partition, delivery)
    lose(assignment, topic_partition)
    assert [held.message for held in assignment.take_unverified()] == ([] if committed else [message])


def test_attempt_that_was_taken_back_is_committed_again_after_a_failed_commit() -> None:
    """Otherwise the next owner would count a crash that has not happened."""
    assignment, partition, delivery = begun(Message("jobs", "k", b"job"))
    assert parse_metadata(assignment.committable(partition).metadata).attempts == {0: 1}
    assignment.requeue(partition, delivery, count_attempt=False)
    assignment.committable(partition)
    assignment.commit_failed(partition)
    ((_, commit),) = assignment.cancel_open([TOPIC_PARTITIONS[0]]).items()
    assert parse_metadata(commit.metadata).attempts == {}
    assignment.committable(partition)
    assert assignment.cancel_open([TOPIC_PARTITIONS[0]]) == {}


class TestDoubt:
    """After a lost connection, another log of the same name may be behind the next one."""

    ONE, TWO = Message("jobs", "one", b"1"), Message("jobs", "two", b"2")

    def test_nothing_is_committed_until_the_log_is_verified(self) -> None:
        assignment, partition, _ = begun(self.ONE, self.TWO)
        assert assignment.distrust(1) == []
        ((held, doubt),) = assignment.to_verify()
        assert (held.offset, held.message, doubt) == (1, self.TWO, 1)
        with pytest.raises(UnverifiedLogError):
            assignment.committable(partition)
        assert assignment.cancel_open([TOPIC_PARTITIONS[0]]) == {}
        assignment.set_verified([(held, doubt)], missing=[])
        assert assignment.committable(partition).offset == 0
        assert (assignment.to_verify(), assignment.take_replaced()) == ([], [])

    def test_partition_of_another_log_begins_anew(self) -> None:
        assignment, partition, _ = begun(self.ONE, self.TWO)
        assignment.distrust(1)
        doubts = assignment.to_verify()
        assignment.set_verified(doubts, missing=[self.TWO])
        with pytest.raises(UnverifiedLogError):
            assignment.committable(partition)
        assert assignment.take_replaced() == [TOPIC_PARTITIONS[0]]

    def test_loss_during_the_verification_is_a_new_doubt(self) -> None:
        assignment, partition, _ = begun(self.ONE)
        assignment.distrust(1)
        doubts = assignment.to_verify()
        assignment.distrust(2)
        assignment.set_verified(doubts, missing=[])
        with pytest.raises(UnverifiedLogError):
            assignment.committable(partition)

    def test_partition_without_messages_begins_anew(self) -> None:
        assignment = PartitionAssignment({})
        assignment.assign(TOPIC_PARTITIONS[:2])
        assignment.set_committed(assignment.owned[0], CommitMetadata())
        assert assignment.distrust(1) == [TOPIC_PARTITIONS[0]], "the other one has not read its commit yet"
