"""How the members of a group share its partitions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from kafka.cluster import ClusterMetadata
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.protocol.consumer.metadata import ConsumerProtocolSubscription
from kafka.structs import TopicPartition

#: The first version of a member's metadata that says of which generation its claims are (KIP-792).
_SUBSCRIPTION_VERSION = 2


class StickyAssignor(CooperativeStickyAssignor):  # type: ignore[misc]
    """Cooperative and sticky: members keep what they have while others join or leave, except what they have lost.

    A member that was away for longer than its session time-out comes back with claims on what it had, and
    kafka-python's assignor (3.0.12) cannot tell them from the claims of the members that have it now: it may take a
    partition, and the job in hand with it, from its rightful owner. Here the claim of the newest generation counts.
    """

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolSubscription:
        """What a member tells the leader when it joins."""
        told = super().metadata(topics)
        return ConsumerProtocolSubscription(
            version=_SUBSCRIPTION_VERSION,
            topics=told.topics,
            user_data=told.user_data,
            owned_partitions=told.owned_partitions,
            generation_id=self.generation,
        )

    def assign(self, cluster: ClusterMetadata, members: Sequence[Any]) -> dict[str, Any]:
        """What the leader gives to each of the members."""
        drop_outdated_claims(members)
        shares: dict[str, Any] = super().assign(cluster, members)
        return shares


def drop_outdated_claims(members: Sequence[Any]) -> None:
    """Leave each partition claimed by one member at most, the one whose claim is the newest."""
    newest: dict[TopicPartition, tuple[int, str]] = {}
    for member in members:
        for position in _claims(member.metadata):
            claim = (member.metadata.generation_id, member.member_id)
            newest[position] = max(claim, newest.get(position, claim))
    for member in members:
        for owned in member.metadata.owned_partitions:
            owned.partitions = [
                partition
                for partition in owned.partitions
                if newest[TopicPartition(owned.topic, partition)][1] == member.member_id
            ]


def _claims(metadata: ConsumerProtocolSubscription) -> Iterable[TopicPartition]:
    for owned in metadata.owned_partitions:
        for partition in owned.partitions:
            yield TopicPartition(owned.topic, partition)
