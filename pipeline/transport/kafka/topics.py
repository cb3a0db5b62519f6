"""Topics as they should be, and what it takes to make them so: partitions, replicas, settings."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import BrokerResponseError, TopicAlreadyExistsError, UnknownTopicOrPartitionError

from pipeline.service.logs import get_logger
from pipeline.transport.protocol import Topic

log = get_logger(__name__)

_RETENTION = "retention.ms"
_IN_SYNC = "min.insync.replicas"
#: How long a broker may take to hear of a topic that another one has made, s, and the pause before it is asked again.
_NEWS_TRAVELS, _ASK_AGAIN = 5.0, 0.1


@dataclass(frozen=True, slots=True)
class TopicLayout:
    """How topics are spread over the brokers."""

    partitions: int = 12
    replication_factor: int = 1
    min_insync_replicas: int | None = None
    """Replicas that must have a message before it counts as stored; None: all but one, at least 1."""

    def settings(self, topic: Topic) -> dict[str, str]:
        """What Kafka is told of ``topic``."""
        retention = -1 if topic.retention is None else int(topic.retention * 1000)
        in_sync = self.min_insync_replicas or max(1, self.replication_factor - 1)
        return {_RETENTION: str(retention), _IN_SYNC: str(in_sync)}


class KafkaTopics:
    """The topics of one cluster. Every method raises kafka-python's exceptions."""

    def __init__(self, admin: KafkaAdminClient, layout: TopicLayout) -> None:
        self._admin = admin
        self._layout = layout

    def create_missing(self, topics: Sequence[Topic]) -> None:
        """Create those that do not exist, and leave the others as they are."""
        existing = set(self._admin.list_topics())
        for topic in topics:
            if topic.name not in existing:
                self._create(topic)

    def lay_out(self, topic: Topic, *, align: bool) -> str:
        """Create ``topic`` or add the partitions that it lacks; with ``align`` change its settings as well.

        Returns what was done, and what was left to be done by others, in one line. Nothing is ever taken away.
        """
        (found,) = self._admin.describe_topics([topic.name])
        partitions = found["partitions"]
        if not partitions:
            self._create(topic)
            return f"created: {self._layout.partitions} partitions, {self._layout.replication_factor} replicas"
        changes = (
            *self._partitions(topic, len(partitions)),
            *self._replicas(partitions),
            *self._settings(topic, align),
        )
        return "; ".join(changes) or "as it should be"

    def _create(self, topic: Topic) -> None:
        description = {
            "num_partitions": self._layout.partitions,
            "replication_factor": self._layout.replication_factor,
            "configs": self._layout.settings(topic),
        }
        # Another service that starts at the same moment may have been quicker.
        with suppress(TopicAlreadyExistsError):
            self._admin.create_topics({topic.name: description})
            log.info("topic_created", topic=topic.name, **description)

    def _partitions(self, topic: Topic, present: int) -> Iterator[str]:
        wanted = self._layout.partitions
        if present < wanted:
            self._admin.create_partitions({topic.name: wanted})
            yield f"{wanted - present} partitions added to {present}"
        elif present > wanted:
            yield f"keeps its {present} partitions, {wanted} were asked for: a topic cannot lose any"

    def _replicas(self, partitions: Sequence[dict[str, Any]]) -> Iterator[str]:
        present = min(len(partition["replica_nodes"]) for partition in partitions)
        if present != self._layout.replication_factor:
            yield (
                f"keeps its replicas, {present}, {self._layout.replication_factor} were asked for: "
                "move it with kafka-reassign-partitions"
            )

    def _settings(self, topic: Topic, align: bool) -> Iterator[str]:
        wanted = self._layout.settings(topic)
        present = self._present_settings(topic.name, wanted)
        different = {name: value for name, value in wanted.items() if present.get(name) != value}
        if different and align:
            self._change_settings(topic.name, different)
        for name, value in different.items():
            was = present.get(name)
            yield f"{name} {was} changed to {value}" if align else f"{name} is {was}, not {value}: --align changes it"

    def _present_settings(self, topic: str, names: dict[str, str]) -> dict[str, str]:
        asked = ConfigResource(ConfigResourceType.TOPIC, topic, configs=dict.fromkeys(names))
        deadline = time.monotonic() + _NEWS_TRAVELS
        while True:
            described = self._admin.describe_configs([asked], config_filter="all")["topic"][topic]
            if described:
                return {name: setting["value"] for name, setting in described.items()}
            # The broker that was asked has not heard of the topic yet, and kafka-python (3.0.12) drops its saying so.
            if time.monotonic() >= deadline:
                raise UnknownTopicOrPartitionError(topic)
            time.sleep(_ASK_AGAIN)

    def _change_settings(self, topic: str, settings: dict[str, str]) -> None:
        outcome = self._admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=settings)])
        said = outcome["topic"][topic]
        if said != "OK":
            raise BrokerResponseError(said)
