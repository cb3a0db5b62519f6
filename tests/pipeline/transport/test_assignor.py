"""Tests of the assignor: balance in every topic, few moves, busy partitions kept, outdated claims ignored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from kafka.structs import TopicPartition

from pipeline.transport.kafka.assignor import MAX_IMBALANCE, MemberMetadata, StickyAssignor, balance, resolve_ownership

TOPICS = tuple(f"topic-{number}" for number in range(5))

layouts = st.dictionaries(st.sampled_from(TOPICS), st.integers(1, 13).map(range), min_size=1)
groups = st.sets(st.sampled_from("abcdef"), min_size=1)

Assignments = dict[str, set[TopicPartition]]


class Group:
    """A consumer group whose members join, work and leave; the leader is called as kafka-python calls it."""

    def __init__(self, layout: Mapping[str, range]) -> None:
        self.layout = layout
        self.cluster = SimpleNamespace(partitions_for_topic=lambda topic: set(layout[topic]))
        self.owned: Assignments = {}
        self.busy: dict[str, list[TopicPartition]] = {}
        self.rounds = 0

    def settle(self, members: Iterable[str]) -> None:
        """Rebalance until the assignment is stable."""
        self.owned = {member: self.owned.get(member, set()) for member in members}
        for self.rounds in range(10):
            given = self.round()
            assert_no_partition_assigned_twice(given)
            for member, share in given.items():
                others = {partition for other, held in self.owned.items() if other != member for partition in held}
                assert not share & others, "assigned before its owner has revoked it"
            if given == self.owned:
                return
            self.owned = given
        raise AssertionError("the assignment never becomes stable")

    def round(self) -> Assignments:
        members = [SimpleNamespace(member_id=member, metadata=self.metadata(member)) for member in self.owned]
        assignments = StickyAssignor().assign(self.cluster, members)
        return {member: partitions_of(assignment) for member, assignment in assignments.items()}

    def metadata(self, member: str) -> Any:
        assignor = StickyAssignor(lambda: self.busy.get(member, []))
        assignor.member_assignment = sorted(self.owned[member])
        return assignor.metadata(self.layout)

    def all_partitions(self) -> set[TopicPartition]:
        return {TopicPartition(topic, number) for topic, numbers in self.layout.items() for number in numbers}


def partitions_of(assignment: Any) -> set[TopicPartition]:
    pairs = [(item[0], item[1]) for item in assignment.assigned_partitions]
    return {TopicPartition(topic, number) for topic, numbers in pairs for number in numbers}


def assert_no_partition_assigned_twice(shares: Assignments) -> None:
    assert sum(map(len, shares.values())) == len(set().union(*shares.values()))


#: A layout whose remainders are distributed differently for two sizes of the group.
UNEVEN_LAYOUT = dict(zip(TOPICS, map(range, (2, 2, 10, 1, 4)), strict=True))


class TestBalance:
    @example(UNEVEN_LAYOUT, set("abcd"), set("abcdef"))
    @given(layouts, groups, groups)
    def test_every_topic_is_balanced_completely(
        self, layout: dict[str, range], before: set[str], after: set[str]
    ) -> None:
        group = Group(layout)
        for members in (before, after):
            group.settle(members)
            assert set().union(*group.owned.values()) == group.all_partitions()
            for topic in layout:
                counts = [sum(partition.topic == topic for partition in share) for share in group.owned.values()]
                assert max(counts) - min(counts) <= 1
            totals = [len(share) for share in group.owned.values()]
            assert max(totals) - min(totals) <= MAX_IMBALANCE

    @given(layouts, groups, st.sampled_from("abcdef"))
    def test_remaining_members_keep_their_partitions_when_one_leaves(
        self, layout: dict[str, range], members: set[str], leaver: str
    ) -> None:
        group = Group(layout)
        group.settle(members | {leaver})
        before = dict(group.owned)
        group.settle(members - {leaver} or {"x"})
        moved = [len(before[member] - share) for member, share in group.owned.items() if member in before]
        # At most one partition of each topic moves, where remainders are distributed again.
        assert all(count <= len(layout) for count in moved)

    @given(layouts, groups)
    def test_joining_takes_at_most_two_rounds(self, layout: dict[str, range], members: set[str]) -> None:
        group = Group(layout)
        group.settle(members)
        assert group.rounds <= 2
        group.settle(members | {"newcomer"})
        assert group.rounds <= 3

    def test_member_receives_only_subscribed_topics(self) -> None:
        members = {"old": MemberMetadata(frozenset(["a"])), "new": MemberMetadata(frozenset(["a", "b"]))}
        shares = balance({"a": range(4), "b": range(3)}, members)
        assert {partition.topic for partition in shares["old"]} == {"a"}
        assert len(shares["old"]) == 2
        assert sum(map(len, shares.values())) == 7

    def test_topic_without_partitions_is_accepted(self) -> None:
        assert balance({"a": []}, {"m": MemberMetadata(frozenset(["a"]))}) == {"m": set()}


class TestBusyPartitions:
    def test_member_keeps_its_busy_partitions(self) -> None:
        group = Group({"jobs": range(12)})
        group.settle("a")
        group.busy["a"] = [TopicPartition("jobs", 11), TopicPartition("jobs", 7)]
        group.settle("ab")
        assert set(group.busy["a"]) <= group.owned["a"]
        assert [len(share) for share in group.owned.values()] == [6, 6]

    def test_longest_running_job_keeps_its_partition(self) -> None:
        group = Group({"jobs": range(2)})
        group.settle("a")
        group.busy["a"] = [TopicPartition("jobs", 1), TopicPartition("jobs", 0)]
        group.settle("ab")
        assert group.owned == {"a": {TopicPartition("jobs", 1)}, "b": {TopicPartition("jobs", 0)}}

    def test_unreadable_user_data_is_ignored(self) -> None:
        group = Group({"jobs": range(4)})
        group.settle("ab")
        metadata = group.metadata("a")
        metadata.user_data = b"\xff not ours"
        members = [
            SimpleNamespace(member_id="a", metadata=metadata),
            SimpleNamespace(member_id="b", metadata=group.metadata("b")),
        ]
        assert len(StickyAssignor().assign(group.cluster, members)) == 2


class TestOwnership:
    def test_newest_generation_wins(self) -> None:
        partition = TopicPartition("jobs", 0)
        topics = frozenset(["jobs"])
        members = {
            "stale": MemberMetadata(topics, (partition,), (), 3),
            "rightful": MemberMetadata(topics, (partition,), (), 4),
        }
        found = resolve_ownership(members)
        assert (found["stale"].owned, found["rightful"].owned) == ((), (partition,))
        assert balance({"jobs": range(1)}, found)["rightful"] == {partition}
