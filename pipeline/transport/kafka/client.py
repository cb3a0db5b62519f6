"""How this service configures kafka-python: one place for every client setting, with its reason.

What the client's own interface leaves open (3.0.12) is here as well: the only code that knows its inner parts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError
from kafka.structs import TopicPartition

from pipeline.transport.kafka.assignor import StickyAssignor
from pipeline.transport.kafka.network import made
from pipeline.transport.kafka.refusal import RefusedByBroker
from pipeline.transport.kafka.security import KafkaSecurity

#: A poll hands over everything that the client has fetched. A partition that is paused while the client still holds
#: records of it can stay silent after it is resumed (kafka-python 3.0.12), so nothing may be left behind.
ALL_RECORDS = 1_000_000
#: What may be waiting in memory per partition instead, bytes. Task messages are about 1 kB; a larger one comes alone.
FETCH_BYTES = 256 * 1024
#: Longest wait for the answer to one request of a consumer, ms: after it a broker that hangs is given up.
REQUEST_MS = 10_000
#: The metadata of the cluster are asked for as often as this, also while the group is being joined, ms; and how long
#: a broker that is alive may take to answer.
METADATA_AGE_MS, METADATA_DELAY_MS = 10_000, 5_000
#: How long to wait for the thread of a force-closed producer, s. It may be busy finding a broker, but sends no more.
FORCE_CLOSE_TIMEOUT = 0.2


@dataclass(frozen=True, slots=True)
class KafkaClients:
    """Makes the kinds of client of one broker.

    Every method raises kafka-python's own exceptions, and RefusedByBroker, which is one of them.
    """

    bootstrap_servers: str
    publish_timeout: float
    """s"""
    max_poll_interval_ms: int
    session_timeout_ms: int
    check_timeout: float = 2.0
    """s"""
    security: KafkaSecurity = field(default_factory=KafkaSecurity)

    def producer(self, bootstrap_timeout: float) -> KafkaProducer:
        """``bootstrap_timeout``: s to find the broker in."""
        milliseconds = int(self.publish_timeout * 1000)
        return made(
            KafkaProducer,
            **self._common(int(bootstrap_timeout * 1000)),
            acks="all",
            enable_idempotence=True,
            # All three end together: when ``publish`` gives up, the client has given up as well.
            max_block_ms=milliseconds,
            delivery_timeout_ms=milliseconds,
            request_timeout_ms=max(1, milliseconds - 100),
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )

    def consumer(self, group: str, busy: Callable[[], Iterable[TopicPartition]] = tuple) -> KafkaConsumer:
        """``busy``: the partitions of which jobs are in hand, the longest running first."""
        return made(
            KafkaConsumer,
            **self._common(REQUEST_MS // 2),
            group_id=group,
            # Offsets are committed by ``settle`` alone, one message after its outcome.
            enable_auto_commit=False,
            # A new group starts with the oldest job, not with the next one.
            auto_offset_reset="earliest",
            # Members keep what they have while others join or leave. Never mixed with an eager assignor.
            partition_assignment_strategy=[StickyAssignor(busy)],
            max_poll_interval_ms=self.max_poll_interval_ms,
            session_timeout_ms=self.session_timeout_ms,
            # A member learns with a heartbeat that the group rearranges itself: often, so that this is over soon.
            heartbeat_interval_ms=min(1000, self.session_timeout_ms // 4),
            max_poll_records=ALL_RECORDS,
            max_partition_fetch_bytes=FETCH_BYTES,
            request_timeout_ms=REQUEST_MS,
            # Topics are created with their settings by ``ensure_topics``, never by a look at them.
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )

    def reader(self) -> KafkaConsumer:
        """A consumer of no group: it reads, and nobody takes note."""
        return made(
            KafkaConsumer,
            **self._common(REQUEST_MS // 2),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            request_timeout_ms=REQUEST_MS,
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )

    def admin(self) -> KafkaAdminClient:
        milliseconds = int(self.check_timeout * 1000)
        return made(KafkaAdminClient, **self._common(milliseconds), request_timeout_ms=milliseconds)

    def _common(self, bootstrap_timeout_ms: int) -> dict[str, Any]:
        return {
            "bootstrap_servers": self.bootstrap_servers.split(","),
            "client_id": "uvr-api",
            "bootstrap_timeout_ms": max(1, bootstrap_timeout_ms),
            "reconnect_backoff_max_ms": 2000,
            # Partitions that are added to a topic are seen and shared out within this time.
            "metadata_max_age_ms": METADATA_AGE_MS,
            **self.security.client_settings(),
        }


def force_close(producer: KafkaProducer) -> None:
    """End a producer with whatever it still holds; nothing is sent after this returns.

    ``close(timeout=0)`` does not do it (kafka-python 3.0.12): it waits for what is unsent, raises that this has not
    been sent in time, and leaves the sender at work.
    """
    sender = producer._sender
    sender.force_close()
    sender.join(FORCE_CLOSE_TIMEOUT)
    with suppress(KafkaError):
        producer.close(timeout=0)


def refusal_of(client: KafkaProducer | KafkaConsumer | KafkaAdminClient) -> RefusedByBroker | None:
    """Which broker has turned the client away since it was made, and why.

    The calls of a client say in time that nobody answers, or that somebody was refused, and not by whom.
    """
    network = client._sender._client if isinstance(client, KafkaProducer) else client._client
    refusal: RefusedByBroker | None = network.refusal
    return refusal


def has_coordinator(consumer: KafkaConsumer) -> bool:
    """Whether the broker that looks after the group is known and answers, as far as can be told.

    Raises RefusedByBroker if a broker has turned the client away.
    """
    refusal = refusal_of(consumer)
    if refusal is not None:
        raise refusal
    return _is_answered(consumer) and not consumer._coordinator.coordinator_unknown()


def _is_answered(consumer: KafkaConsumer) -> bool:
    """Whether there are signs of life: a coordinator counts as known until a request to it has failed.

    That may take as long as the slowest member of the group may, when the request is one to join.
    """
    coordinator = consumer._coordinator
    if coordinator.stable():
        return not coordinator.heartbeat.session_timeout_expired()
    refreshed_ms: float = coordinator._cluster._last_successful_refresh_ms
    return time.monotonic() - refreshed_ms / 1000 < (METADATA_AGE_MS + METADATA_DELAY_MS) / 1000


def is_joining(consumer: KafkaConsumer) -> bool:
    """Whether a join of the group is under way or due: poll without pause, and long, until it is over.

    A join that is over while nobody polls is thrown away and begun anew (kafka-python 3.0.12). Short polls with pauses
    between them may so rejoin for ever, and make the whole group do the same.
    """
    coordinator = consumer._coordinator
    return bool(coordinator._join_task is not None or coordinator.need_rejoin())


def finish_interrupted_join(consumer: KafkaConsumer) -> None:
    """Keep a member from standing still for ever after a poll ended while it was joining. Call after each poll.

    When the group's leader rejoins because a topic's metadata changed, and the poll's time-out ends before the join
    does, kafka-python 3.0.12 finds the metadata unchanged in the next poll and never takes up the join: heartbeats
    stay off, commits fail, and nothing says so. Asking to rejoin makes it take the join up, or begin it anew.
    """
    coordinator = consumer._coordinator
    if coordinator._join_task is not None and not coordinator.need_rejoin():
        coordinator.request_rejoin()
