"""How this service configures kafka-python: one place for every client setting, with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

#: A poll hands over everything that the client has fetched. A partition that is paused while the client still holds
#: records of it can stay silent after it is resumed (kafka-python 3.0.12), so nothing may be left behind.
ALL_RECORDS = 1_000_000
#: What may be waiting in memory per partition instead, bytes. Task messages are about 1 kB.
FETCH_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class KafkaClients:
    """Makes the three kinds of client of one broker. Every method raises kafka-python's own exceptions."""

    bootstrap_servers: str
    publish_timeout: float
    """s"""
    max_poll_interval_ms: int
    session_timeout_ms: int
    check_timeout: float = 2.0
    """s"""

    def producer(self) -> KafkaProducer:
        milliseconds = int(self.publish_timeout * 1000)
        return KafkaProducer(
            **self._common(milliseconds),
            acks="all",
            enable_idempotence=True,
            # All three end together: when ``publish`` gives up, the client has given up as well, and a request that
            # was answered 503 is not sent behind the caller's back.
            max_block_ms=milliseconds,
            delivery_timeout_ms=milliseconds,
            request_timeout_ms=max(1, milliseconds - 100),
            metrics_enabled=False,
        )

    def consumer(self, group: str) -> KafkaConsumer:
        return KafkaConsumer(
            **self._common(10_000),
            group_id=group,
            # Offsets are committed by ``settle`` alone, one message after its outcome.
            enable_auto_commit=False,
            # A new group starts with the oldest job, not with the next one.
            auto_offset_reset="earliest",
            # Members keep what they have while others join or leave. Never mixed with an eager assignor.
            partition_assignment_strategy=[CooperativeStickyAssignor],
            max_poll_interval_ms=self.max_poll_interval_ms,
            session_timeout_ms=self.session_timeout_ms,
            heartbeat_interval_ms=min(3000, self.session_timeout_ms // 4),
            max_poll_records=ALL_RECORDS,
            max_partition_fetch_bytes=FETCH_BYTES,
            metrics_enabled=False,
        )

    def admin(self) -> KafkaAdminClient:
        milliseconds = int(self.check_timeout * 1000)
        return KafkaAdminClient(**self._common(milliseconds), request_timeout_ms=milliseconds)

    def _common(self, bootstrap_timeout_ms: int) -> dict[str, Any]:
        return {
            "bootstrap_servers": self.bootstrap_servers.split(","),
            "client_id": "uvr-api",
            "bootstrap_timeout_ms": bootstrap_timeout_ms,
            "reconnect_backoff_max_ms": 2000,
            # Partitions that are added to a topic are seen and shared out within this time.
            "metadata_max_age_ms": 10_000,
        }


def finish_interrupted_join(consumer: KafkaConsumer) -> None:
    """Keep a member from standing still for ever after a poll ended while it was joining. Call after each poll.

    When the group's leader rejoins because a topic's metadata changed, and the poll's time-out ends before the join
    does, kafka-python 3.0.12 finds the metadata unchanged in the next poll and never takes up the finished join:
    heartbeats stay off, commits fail, and nothing says so. Asking to rejoin makes it take up that same join.
    """
    coordinator = consumer._coordinator
    if coordinator._join_task is not None and not coordinator.need_rejoin():
        coordinator.request_rejoin()
