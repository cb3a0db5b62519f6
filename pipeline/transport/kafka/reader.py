"""Reading what lies in a topic, beside all groups."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from kafka import KafkaConsumer
from kafka.errors import KafkaTimeoutError
from kafka.structs import TopicPartition

from pipeline.transport.protocol import Message, Stored

#: Longest wait for records in one go, ms.
_POLL_MS = 200


def message_of(record: Any) -> Message:
    """What kafka-python fetched, as it came: a broken body is the parser's business, not the client's."""
    key = (record.key or b"").decode("utf-8", "replace")
    return Message(record.topic, key, record.value or b"", dict(record.headers or ()))


def read_all(consumer: KafkaConsumer, topic: str, patience: float) -> Iterator[Stored]:
    """Everything that the topic holds now, oldest first in each partition.

    Raises kafka-python's exceptions, and its time-out if nothing comes for ``patience`` s.
    """
    positions = [TopicPartition(topic, partition) for partition in consumer.partitions_for_topic(topic) or ()]
    if not positions:
        return
    consumer.assign(positions)
    consumer.seek_to_beginning(*positions)
    ends: dict[TopicPartition, int] = consumer.end_offsets(positions)
    deadline = time.monotonic() + patience
    while any(consumer.position(position) < ends[position] for position in positions):
        if time.monotonic() > deadline:
            raise KafkaTimeoutError("the topic could not be read to its end in time")
        for position, records in consumer.poll(timeout_ms=_POLL_MS).items():
            deadline = time.monotonic() + patience
            for record in records:
                if record.offset < ends[position]:
                    yield Stored(message_of(record), record.partition, record.offset, record.timestamp / 1000)
