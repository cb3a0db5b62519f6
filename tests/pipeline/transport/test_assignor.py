"""How partitions are shared out: evenly in every topic, with few moves, jobs in hand last, old claims not at all."""

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

Shares = dict[str, set[TopicPartition]]


class Group:
    """A group whose members join, work, and leave; the leader is asked as kafka-python asks it."""

    def __init__(self, layout: Mapping[str, range]) -> None:
        self.layout = layout
        self.cluster = SimpleNamespace(partitions_for_topic=lambda topic: set(layout[topic]))
        self.owned: Shares = {}
        self.busy: dict[str, list[TopicPartition]] = {}
        self.rounds = 0

    def settle(self, members: Iterable[str]) -> None:
        """Rebalance until nothing moves any more."""
        self.owned = {member: self.owned.get(member, set()) for member in members}
        for self.rounds in range(10):
            given = self.round()
            assert_nothing_twice(given)
            for member, share in given.items():
                others = {position for other, held in self.owned.items() if other != member for position in held}
                assert not share & others, "given away before its owner has let go of it"
            if given == self.owned:
                return
            self.owned = given
        raise AssertionError("it never comes to rest")

    def round(self) -> Shares:
        members = [SimpleNamespace(member_id=member, metadata=self.metadata(member)) for member in self.owned]
        assignments = StickyAssignor().assign(self.cluster, members)
        return {member: positions_of(assignment) for member, assignment in assignments.items()}

    def metadata(self, member: str) -> Any:
        assignor = StickyAssignor(lambda: self.busy.get(member, []))
        assignor.member_assignment = sorted(self.owned[member])
        return assignor.metadata(self.layout)

    def everything(self) -> set[TopicPartition]:
        return {TopicPartition(topic, number) for topic, numbers in self.layout.items() for number in numbers}


def positions_of(assignment: Any) -> set[TopicPartition]:
    pairs = [(item[0], item[1]) for item in assignment.assigned_partitions]
    return {TopicPartition(topic, number) for topic, numbers in pairs for number in numbers}


def assert_nothing_twice(shares: Shares) -> None:
    assert sum(map(len, shares.values())) == len(set().union(*shares.values()))


#: Remainders that an old and a new size of the group share out differently.
AWKWARD = dict(zip(TOPICS, map(range, (2, 2, 10, 1, 4)), strict=True))


class TestShares:
    @example(AWKWARD, set("abcd"), set("abcdef"))
    @given(layouts, groups, groups)
    def test_everything_is_shared_out_evenly_in_every_topic(
        self, layout: dict[str, range], before: set[str], after: set[str]
    ) -> None:
        group = Group(layout)
        for members in (before, after):
            group.settle(members)
            assert set().union(*group.owned.values()) == group.everything()
            for topic in layout:
                counts = [sum(position.topic == topic for position in share) for share in group.owned.values()]
                assert max(counts) - min(counts) <= 1
            totals = [len(share) for share in group.owned.values()]
            assert max(totals) - min(totals) <= MAX_IMBALANCE

    @given(layouts, groups, st.sampled_from("abcdef"))
    def test_who_stays_gets_nothing_taken_away_when_another_leaves(
        self, layout: dict[str, range], members: set[str], leaver: str
    ) -> None:
        group = Group(layout)
        group.settle(members | {leaver})
        before = dict(group.owned)
        group.settle(members - {leaver} or {"x"})
        kept = [len(before[member] - share) for member, share in group.owned.items() if member in before]
        # One partition of a topic at most, where remainders are shared out anew.
        assert all(lost <= len(layout) for lost in kept)

    @given(layouts, groups)
    def test_two_rounds_are_enough_for_a_newcomer(self, layout: dict[str, range], members: set[str]) -> None:
        group = Group(layout)
        group.settle(members)
        assert group.rounds <= 2
        group.settle(members | {"newcomer"})
        assert group.rounds <= 3

    def test_a_member_gets_only_what_it_subscribes_to(self) -> None:
        claims = {"old": MemberMetadata(frozenset(["a"])), "new": MemberMetadata(frozenset(["a", "b"]))}
        shares = balance({"a": range(4), "b": range(3)}, claims)
        assert {position.topic for position in shares["old"]} == {"a"}
        assert len(shares["old"]) == 2
        assert sum(map(len, shares.values())) == 7

    def test_a_topic_without_partitions_is_no_hindrance(self) -> None:
        assert balance({"a": []}, {"m": MemberMetadata(frozenset(["a"]))}) == {"m": set()}


class TestJobsInHand:
    def test_a_member_keeps_the_partitions_that_it_works_on(self) -> None:
        group = Group({"jobs": range(12)})
        group.settle("a")
        group.busy["a"] = [TopicPartition("jobs", 11), TopicPartition("jobs", 7)]
        group.settle("ab")
        assert set(group.busy["a"]) <= group.owned["a"]
        assert [len(share) for share in group.owned.values()] == [6, 6]

    def test_when_it_cannot_keep_all_the_longest_running_job_stays(self) -> None:
        group = Group({"jobs": range(2)})
        group.settle("a")
        group.busy["a"] = [TopicPartition("jobs", 1), TopicPartition("jobs", 0)]
        group.settle("ab")
        assert group.owned == {"a": {TopicPartition("jobs", 1)}, "b": {TopicPartition("jobs", 0)}}

    def test_what_another_version_tells_is_no_hindrance(self) -> None:
        group = Group({"jobs": range(4)})
        group.settle("ab")
        metadata = group.metadata("a")
        metadata.user_data = b"\xff not ours"
        members = [
            SimpleNamespace(member_id="a", metadata=metadata),
            SimpleNamespace(member_id="b", metadata=group.metadata("b")),
        ]
        assert len(StickyAssignor().assign(group.cluster, members)) == 2


class TestClaims:
    def test_the_newest_generation_counts(self) -> None:
        position = TopicPartition("jobs", 0)
        topics = frozenset(["jobs"])
        claims = {
            "stale": MemberMetadata(topics, (position,), (), 3),
            "rightful": MemberMetadata(topics, (position,), (), 4),
        }
        found = resolve_ownership(claims)
        assert (found["stale"].owned, found["rightful"].owned) == ((), (position,))
        assert balance({"jobs": range(1)}, found)["rightful"] == {position}
