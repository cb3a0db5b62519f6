"""Reads the content of a topic without a consumer group."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from kafka import KafkaConsumer
from kafka.errors import KafkaTimeoutError
from kafka.structs import TopicPartition

from pipeline.transport.protocol import Message, StoredMessage

#: Timeout of one poll, ms.
_POLL_MS = 200


def message_from_record(record: Any) -> Message:
    """Return the message of a fetched record, with its value unchanged: the consumer loop handles malformed values."""
    key = (record.key or b"").decode("utf-8", "replace")
    return Message(record.topic, key, record.value or b"", dict(record.headers or ()))


def read_topic(consumer: KafkaConsumer, topic: str, timeout: float) -> Iterator[StoredMessage]:
    """Yield all messages that the topic holds now, oldest first in each partition.

    Raises kafka-python's exceptions, among them KafkaTimeoutError if no message arrives for ``timeout`` s.
    """
    partitions = [TopicPartition(topic, partition) for partition in consumer.partitions_for_topic(topic) or ()]
    if not partitions:
        return
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    ends: dict[TopicPartition, int] = consumer.end_offsets(partitions)
    deadline = time.monotonic() + timeout
    while any(consumer.position(partition) < ends[partition] for partition in partitions):
        if time.monotonic() > deadline:
            raise KafkaTimeoutError("the topic could not be read to its end in time")
        for partition, records in consumer.poll(timeout_ms=_POLL_MS).items():
            deadline = time.monotonic() + timeout
            for record in records:
                if record.offset < ends[partition]:
                    message = message_from_record(record)
                    yield StoredMessage(message, record.partition, record.offset, record.timestamp / 1000)
