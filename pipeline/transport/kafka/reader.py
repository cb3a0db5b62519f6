"""Reads the content of a topic without a consumer group."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from kafka import KafkaConsumer
from kafka.errors import KafkaTimeoutError
from kafka.structs import TopicPartition

from pipeline.transport.kafka.client import request_partitions
from pipeline.transport.kafka.partitions import HeldMessage
from pipeline.transport.protocol import Message, StoredMessage

#: Timeout of one poll, ms.
_POLL_MS = 200


def message_from_record(record: Any) -> Message:
    """Return the message of a fetched record, with its value unchanged: the consumer loop handles malformed values."""
    key = (record.key or b"").decode("utf-8", "replace")
    return Message(record.topic, key, record.value or b"", dict(record.headers or ()))


def find_missing(consumer: KafkaConsumer, held: Sequence[HeldMessage], timeout: float) -> list[Message] | None:
    """Return those of ``held`` that are no longer in their log; None if a topic does not exist now.

    A message before the start of its log was deleted on purpose, by its retention time or an operator, and does not
    count as missing. Raises kafka-python's exceptions.
    """
    missing = []
    for topic_partition, messages in _by_partition(held).items():
        (known,) = request_partitions(consumer, [topic_partition.topic])
        if not known:
            return None
        records: dict[int, Message] = {}
        begin = 0
        if topic_partition.partition in known:
            begin = consumer.beginning_offsets([topic_partition])[topic_partition]
            wanted = range(max(begin, min(messages)), max(messages) + 1)
            records = _read_range(consumer, topic_partition, wanted, timeout)
        missing += [
            message
            for offset, message in sorted(messages.items(), key=lambda item: item[0])
            if offset >= begin and records.get(offset) != message
        ]
    return missing


def _by_partition(held: Iterable[HeldMessage]) -> dict[TopicPartition, dict[int, Message]]:
    messages: dict[TopicPartition, dict[int, Message]] = {}
    for item in held:
        messages.setdefault(item.topic_partition, {})[item.offset] = item.message
    return messages


def _read_range(
    consumer: KafkaConsumer, topic_partition: TopicPartition, wanted: range, timeout: float
) -> dict[int, Message]:
    """Return the messages with these offsets, as far as the log has them."""
    end = min(wanted.stop, consumer.end_offsets([topic_partition])[topic_partition])
    records: dict[int, Message] = {}
    consumer.assign([topic_partition])
    consumer.seek(topic_partition, wanted.start)
    deadline = time.monotonic() + timeout
    while wanted.start < end and consumer.position(topic_partition) < end:
        if time.monotonic() > deadline:
            raise KafkaTimeoutError("the log could not be read in time")
        for record in consumer.poll(timeout_ms=_POLL_MS).get(topic_partition, ()):
            records[record.offset] = message_from_record(record)
    return records


def read_topic(consumer: KafkaConsumer, topic: str, timeout: float) -> Iterator[StoredMessage]:
    """Yield all messages that the topic holds now, oldest first in each partition.

    Raises kafka-python's exceptions, among them KafkaTimeoutError if no message arrives for ``timeout`` s.
    """
    (known,) = request_partitions(consumer, [topic])
    partitions = [TopicPartition(topic, partition) for partition in known]
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
