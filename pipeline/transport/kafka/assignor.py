"""How the members of a group share its partitions.

kafka-python's sticky assignor (3.0.12) balances the number of partitions that each member has, whatever their topics
are. When a second processor joins one that has everything, it is so given whole topics: all new jobs of a priority go
to one of the two, and the other is idle. Here every topic is shared evenly by itself, and so are the remainders.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kafka.cluster import ClusterMetadata
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment, ConsumerProtocolSubscription
from kafka.structs import TopicPartition

#: The first version of a member's metadata that says of which generation its claims are (KIP-792).
_SUBSCRIPTION_VERSION = 2
#: By how many partitions, over all topics, one member may be ahead of another for the sake of few moves.
LEAD = 2


@dataclass(frozen=True, slots=True)
class Claims:
    """What a member tells when it joins."""

    topics: frozenset[str]
    """Those that it subscribes to."""
    owned: tuple[TopicPartition, ...] = ()
    busy: tuple[TopicPartition, ...] = ()
    """Those of which it has jobs in hand, the longest running first."""
    generation: int = -1
    """Since when it has known that it owns them."""


class StickyAssignor(CooperativeStickyAssignor):  # type: ignore[misc]
    """Cooperative and sticky: members keep what they have while others join or leave.

    * Every topic is shared evenly by itself.
    * A member that has to give partitions away keeps those of which it has jobs in hand for as long as it can.
    * Of several claims to a partition the newest generation's counts. A member that was away for longer than its
      session time-out comes back with claims on what it had, and must not take that from its rightful owner.
    """

    def __init__(self, busy: Callable[[], Iterable[TopicPartition]] = tuple) -> None:
        """``busy``: the partitions of which this member has jobs in hand, the longest running first."""
        super().__init__()
        self._busy = busy

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolSubscription:
        """What a member tells the leader when it joins."""
        told = super().metadata(topics)
        return ConsumerProtocolSubscription(
            version=_SUBSCRIPTION_VERSION,
            topics=told.topics,
            user_data=json.dumps([list(position) for position in self._busy()]).encode(),
            owned_partitions=told.owned_partitions,
            generation_id=self.generation,
        )

    def assign(self, cluster: ClusterMetadata, members: Sequence[Any]) -> dict[str, Any]:
        """What the leader gives to each of the members in this round.

        A partition that is to move is given to nobody until its owner has let go of it, which begins another round.
        """
        claims = newest_only({member.member_id: _read(member.metadata) for member in members})
        topics = {topic for claim in claims.values() for topic in claim.topics}
        partitions = {topic: sorted(cluster.partitions_for_topic(topic) or ()) for topic in sorted(topics)}
        owners = {position: member for member, claim in claims.items() for position in claim.owned}
        return {
            member: ConsumerProtocolAssignment(
                self.version, _by_topic(position for position in share if owners.get(position, member) == member), b""
            )
            for member, share in share_out(partitions, claims).items()
        }


def newest_only(claims: Mapping[str, Claims]) -> dict[str, Claims]:
    """The claims, each partition left to the one member whose claim is the newest."""
    owners: dict[TopicPartition, tuple[int, str]] = {}
    for member, claim in claims.items():
        for position in claim.owned:
            owners[position] = max((claim.generation, member), owners.get(position, (claim.generation, member)))
    return {
        member: Claims(
            claim.topics,
            tuple(position for position in claim.owned if owners[position][1] == member),
            claim.busy,
            claim.generation,
        )
        for member, claim in claims.items()
    }


def share_out(partitions: Mapping[str, Sequence[int]], claims: Mapping[str, Claims]) -> dict[str, set[TopicPartition]]:
    """Who should have what in the end, by member. ``partitions``: by topic. Each may be claimed once at most."""
    shares = _Shares({member: set() for member in sorted(claims)})
    members_of = {topic: sorted(m for m, claim in claims.items() if topic in claim.topics) for topic in partitions}
    for topic, numbers in partitions.items():
        members = members_of[topic]
        if members:
            everything = [TopicPartition(topic, number) for number in numbers]
            _share_topic(everything, {member: claims[member] for member in members}, shares)
    return shares.of


@dataclass(slots=True)
class _Shares:
    of: dict[str, set[TopicPartition]]
    extras: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """How often a member was given one partition more than others of the same topic."""


def _share_topic(everything: Sequence[TopicPartition], claims: Mapping[str, Claims], shares: _Shares) -> None:
    """Give each member its share of one topic."""
    existing = set(everything)
    owned = {member: _keepers(claim, existing) for member, claim in claims.items()}
    base, remainder = divmod(len(everything), len(claims))
    fewest = min(shares.extras[member] for member in claims)

    def claim_to_an_extra(member: str) -> tuple[bool, bool, int, str]:
        # Who has more than the base keeps it, as long as that puts nobody ahead of another by more than LEAD.
        extras = shares.extras[member]
        return extras >= fewest + LEAD, len(owned[member]) <= base, extras, member

    quotas = dict.fromkeys(claims, base)
    for member in sorted(claims, key=claim_to_an_extra)[:remainder]:
        quotas[member] += 1
        shares.extras[member] += 1
    given: set[TopicPartition] = set()
    for member, quota in quotas.items():
        kept = owned[member][:quota]
        shares.of[member].update(kept)
        given.update(kept)
        quotas[member] = quota - len(kept)
    left = (position for position in everything if position not in given)
    for member, lacking in quotas.items():
        shares.of[member].update(next(left) for _ in range(lacking))


def _keepers(claim: Claims, existing: set[TopicPartition]) -> list[TopicPartition]:
    """What the member owns of a topic, what it would least like to lose first."""
    busy = {position: rank for rank, position in enumerate(claim.busy)}
    owned = [position for position in claim.owned if position in existing]
    return sorted(owned, key=lambda position: (busy.get(position, len(busy)), position))


def _read(metadata: ConsumerProtocolSubscription) -> Claims:
    owned = [TopicPartition(item.topic, number) for item in metadata.owned_partitions for number in item.partitions]
    return Claims(frozenset(metadata.topics), tuple(owned), _busy(metadata.user_data), metadata.generation_id)


def _busy(user_data: bytes | None) -> tuple[TopicPartition, ...]:
    """Nothing, if it cannot be read: another version may have written it."""
    try:
        return tuple(TopicPartition(str(topic), int(number)) for topic, number in json.loads(user_data or b"[]"))
    except (ValueError, TypeError):
        return ()


def _by_topic(positions: Iterable[TopicPartition]) -> list[tuple[str, list[int]]]:
    numbers = defaultdict(list)
    for position in sorted(positions):
        numbers[position.topic].append(position.partition)
    return sorted(numbers.items())
