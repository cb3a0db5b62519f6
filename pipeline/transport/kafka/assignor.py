"""The partition assignor: how the members of a consumer group share its partitions.

kafka-python's sticky assignor (3.0.12) balances the number of partitions of each member, regardless of their topics.
When a second processor joins one that owns everything, it therefore receives whole topics: all new jobs of a priority
go to one of the two, and the other is idle. This assignor balances each topic separately, and the remainders as well.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kafka.cluster import ClusterMetadata
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment, ConsumerProtocolSubscription
from kafka.structs import TopicPartition

#: The first version of the subscription metadata that carries the generation of the owned partitions (KIP-792).
_SUBSCRIPTION_VERSION = 2
#: Maximum difference between the partition counts of two members, over all topics, that is accepted to avoid moves.
MAX_IMBALANCE = 2


@dataclass(frozen=True, slots=True)
class MemberMetadata:
    """The metadata that a member sends to the group leader when it joins."""

    topics: frozenset[str]
    """The topics that the member subscribes to."""
    owned: tuple[TopicPartition, ...] = ()
    """The partitions that the member believes to own."""
    busy: tuple[TopicPartition, ...] = ()
    """The partitions with jobs in progress, the longest running first."""
    generation: int = -1
    """The generation of the group in which ``owned`` was assigned."""


class StickyAssignor(CooperativeStickyAssignor):  # type: ignore[misc]
    """A cooperative, sticky assignor: members keep their partitions while others join or leave.

    * Each topic is balanced separately.
    * A member that has to give partitions away keeps those with jobs in progress as long as possible.
    * If several members claim a partition, the claim with the newest generation wins. A member that was away for
      longer than its session timeout still claims its former partitions, and must not take them from the new owner.
    """

    def __init__(self, busy: Callable[[], Iterable[TopicPartition]] = tuple) -> None:
        """``busy`` returns the partitions in which this member has jobs in progress, the longest running first."""
        super().__init__()
        self._busy = busy

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolSubscription:
        """Return the metadata that this member sends to the leader when it joins."""
        inherited = super().metadata(topics)
        return ConsumerProtocolSubscription(
            version=_SUBSCRIPTION_VERSION,
            topics=inherited.topics,
            user_data=json.dumps([list(topic_partition) for topic_partition in self._busy()]).encode(),
            owned_partitions=inherited.owned_partitions,
            generation_id=self.generation,
        )

    def assign(self, cluster: ClusterMetadata, members: Sequence[Any]) -> dict[str, Any]:
        """Return the assignment of each member for this rebalance round. Runs on the group leader.

        A partition that is to move is assigned to no member until its owner has revoked it, which starts another round.
        """
        claims = resolve_ownership({member.member_id: _parse(member.metadata) for member in members})
        topics = {topic for metadata in claims.values() for topic in metadata.topics}
        partitions = {topic: sorted(cluster.partitions_for_topic(topic) or ()) for topic in sorted(topics)}
        owners = {partition: member for member, metadata in claims.items() for partition in metadata.owned}
        assignments = {}
        for member, target in balance(partitions, claims).items():
            numbers = defaultdict(list)
            for partition in sorted(target):
                if owners.get(partition, member) == member:
                    numbers[partition.topic].append(partition.partition)
            assignments[member] = ConsumerProtocolAssignment(self.version, sorted(numbers.items()), b"")
        return assignments


def _parse(metadata: ConsumerProtocolSubscription) -> MemberMetadata:
    owned = [TopicPartition(item.topic, number) for item in metadata.owned_partitions for number in item.partitions]
    try:
        entries = json.loads(metadata.user_data or b"[]")
        busy = tuple(TopicPartition(str(topic), int(number)) for topic, number in entries)
    except (ValueError, TypeError):  # another version of this service may have written it
        busy = ()
    return MemberMetadata(frozenset(metadata.topics), tuple(owned), busy, metadata.generation_id)


def resolve_ownership(members: Mapping[str, MemberMetadata]) -> dict[str, MemberMetadata]:
    """Return the metadata with each partition owned by one member only: the one with the newest generation."""
    owners: dict[TopicPartition, tuple[int, str]] = {}
    for member, metadata in members.items():
        claim = (metadata.generation, member)
        for partition in metadata.owned:
            owners[partition] = max(claim, owners.get(partition, claim))
    return {
        member: replace(metadata, owned=tuple(owned for owned in metadata.owned if owners[owned][1] == member))
        for member, metadata in members.items()
    }


def balance(
    partitions: Mapping[str, Sequence[int]], members: Mapping[str, MemberMetadata]
) -> dict[str, set[TopicPartition]]:
    """Return the target assignment of each member, once all moves are done.

    ``partitions``: the partition numbers by topic. Each partition may be owned by one member at most.
    """
    targets: dict[str, set[TopicPartition]] = {member: set() for member in sorted(members)}
    surplus: Counter[str] = Counter()
    for topic, numbers in partitions.items():
        subscribers = {member: members[member] for member in targets if topic in members[member].topics}
        if subscribers:
            _balance_topic([TopicPartition(topic, number) for number in numbers], subscribers, targets, surplus)
    return targets


def _balance_topic(
    partitions: Sequence[TopicPartition],
    members: Mapping[str, MemberMetadata],
    targets: Mapping[str, set[TopicPartition]],
    surplus: Counter[str],
) -> None:
    """Add one topic's partitions to ``targets``.

    ``surplus`` counts, over all topics, how often a member received one partition more than others of the same topic.
    """
    owned: dict[str, list[TopicPartition]] = {}  # by member, in the order in which it keeps them
    for member, metadata in members.items():
        existing = set(metadata.owned).intersection(partitions)
        busy = [partition for partition in dict.fromkeys(metadata.busy) if partition in existing]
        owned[member] = busy + sorted(existing.difference(busy))
    quota, remainder = divmod(len(partitions), len(members))
    least = min(surplus[member] for member in members)
    # A member above its quota keeps the surplus partition, unless it is ahead of another one by MAX_IMBALANCE.
    by_priority = sorted(
        members, key=lambda m: (surplus[m] >= least + MAX_IMBALANCE, len(owned[m]) <= quota, surplus[m], m)
    )
    quotas = dict.fromkeys(members, quota)
    for member in by_priority[:remainder]:
        quotas[member] += 1
        surplus[member] += 1
    kept = {member: owned[member][: quotas[member]] for member in members}
    assigned = {partition for retained in kept.values() for partition in retained}
    unassigned = (partition for partition in partitions if partition not in assigned)
    for member, retained in kept.items():
        targets[member].update(retained)
        targets[member].update(next(unassigned) for _ in range(quotas[member] - len(retained)))
