"""Tests of ``browse`` on every engine: it returns all messages of a topic, without affecting any group."""

from __future__ import annotations

import time
from collections import defaultdict
from itertools import islice

import pytest

from pipeline.transport.protocol import NOT_BEFORE, Message, StoredMessage
from tests.conformance.transport.backends import Backend

TIMEOUT = 30.0


def numbered(topic: str, count: int, size: int = 0) -> list[Message]:
    """Return messages with seven keys, whose values are their sequence numbers."""
    return [Message(topic, f"key-{number % 7}", f"{number}".encode().ljust(size)) for number in range(count)]


def numbers(browsed: list[StoredMessage]) -> list[int]:
    return [int(stored.message.value) for stored in browsed]


def test_messages_are_returned_as_they_were_sent(backend: Backend, topic: str) -> None:
    sent = [Message(topic, f"schlüssel-{number}", b"\x00\xff\n", {"a": b"\xff", "b": b""}) for number in range(5)]
    transport = backend.open()
    earliest = time.time()
    transport.publish(*sent)

    browsed = list(transport.browse(topic))

    assert sorted((stored.message for stored in browsed), key=lambda message: message.key) == sent
    # Kafka stores timestamps in whole milliseconds.
    assert all(earliest - 0.001 <= stored.published_at <= time.time() for stored in browsed)


@pytest.mark.parametrize(("count", "size"), [(350, 0), (40, 100_000)], ids=["many", "large"])
def test_several_fetches_are_complete_and_in_order(backend: Backend, topic: str, count: int, size: int) -> None:
    transport = backend.open()
    transport.publish(*numbered(topic, count, size))

    browsed = list(transport.browse(topic))

    assert sorted(numbers(browsed)) == list(range(count))
    partitions = defaultdict(list)
    for stored in browsed:
        partitions[stored.partition].append(stored)
    assert len(partitions) == backend.partitions
    for partition in partitions.values():
        offsets = [stored.offset for stored in partition]
        assert offsets == sorted(set(offsets))
        assert numbers(partition) == sorted(numbers(partition))


def test_position_is_the_same_as_that_of_a_delivery(backend: Backend, topic: str, group: str) -> None:
    transport = backend.open()
    transport.publish(*numbered(topic, 1))
    delivery = transport.subscribe([topic], group).receive(TIMEOUT)

    (stored,) = transport.browse(topic)

    assert delivery is not None
    assert (stored.partition, stored.offset) == (delivery.partition, delivery.offset)


def test_browsing_does_not_affect_groups(backend: Backend, topic: str, group: str) -> None:
    transport = backend.open()
    transport.publish(*numbered(topic, 4))
    subscription = transport.subscribe([topic], group)
    seen = []
    for expected in range(4):
        delivery = subscription.receive(TIMEOUT)
        assert delivery is not None

        # Open, settled and future messages are all returned.
        assert sorted(numbers(list(transport.browse(topic)))) == [0, 1, 2, 3]

        assert not delivery.cancel.is_set()
        assert delivery.attempt == 1, f"delivery {expected}"
        subscription.settle(delivery)
        seen.append(int(delivery.message.value))

    assert sorted(seen) == [0, 1, 2, 3]
    assert subscription.receive(0.5) is None


def test_messages_that_are_not_due_are_returned(backend: Backend, topic: str) -> None:
    transport = backend.open()
    in_an_hour = f"{(time.time() + 3600) * 1000:.0f}".encode()
    transport.publish(Message(topic, "k", b"later", {NOT_BEFORE: in_an_hour}))

    assert [stored.message.value for stored in transport.browse(topic)] == [b"later"]


def test_browsing_ends_although_more_is_published_meanwhile(backend: Backend, topic: str) -> None:
    transport = backend.open()
    # More than one fetch: the last fetch also contains messages that were published meanwhile.
    transport.publish(*numbered(topic, 40, 100_000))
    browsing = transport.browse(topic)
    first = next(browsing)
    transport.publish(*(Message(topic, f"key-{number}", b"99") for number in range(7)))

    assert sorted(numbers([first, *browsing])) == list(range(40))
    assert len(list(transport.browse(topic))) == 47


def test_browsing_may_be_stopped_early(backend: Backend, topic: str) -> None:
    transport = backend.open()
    transport.publish(*numbered(topic, 3))

    for _ in range(3):
        assert len(list(islice(transport.browse(topic), 1))) == 1

    transport.publish(Message(topic, "k", b"3"))
    assert sorted(numbers(list(transport.browse(topic)))) == [0, 1, 2, 3]


def test_other_topics_are_not_returned(backend: Backend, topic: str) -> None:
    transport = backend.open()
    transport.publish(Message(backend.topic("other"), "k", b"0"), Message(topic, "k", b"1"))

    assert numbers(list(transport.browse(topic))) == [1]


def test_empty_topic_yields_nothing(backend: Backend, topic: str) -> None:
    assert list(backend.open().browse(topic)) == []


def test_missing_topic_yields_nothing(backend: Backend, topic: str) -> None:
    assert list(backend.open().browse(f"{topic}-misspelt")) == []
