"""A log that vanishes, is replaced or goes back: what its consumers hold and what is accepted later is kept."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata, TopicPartition
from structlog.testing import capture_logs

from devstack.kafka.broker import KafkaBroker
from pipeline.errors import CancelledError, InfrastructureError
from pipeline.transport.kafka.transport import KafkaTransport
from pipeline.transport.protocol import Delivery, Message, Subscription, Topic
from tests.conformance.transport import backends
from tests.support.servers import require

pytestmark = backends.NEEDS_KAFKA

TIMEOUT = 60.0

Connect = Callable[..., KafkaTransport]


@pytest.fixture
def connect(kafka_broker: KafkaBroker) -> Iterator[Connect]:
    with opened(kafka_broker) as connect:
        yield connect


class opened:  # noqa: N801  used as a function
    """Opens connections to a broker, and closes them at the end."""

    def __init__(self, broker: KafkaBroker) -> None:
        self._broker = broker
        self._transports: list[KafkaTransport] = []

    def __enter__(self) -> Connect:
        return self._connect

    def __exit__(self, *_: object) -> None:
        for transport in self._transports:
            transport.close()

    def _connect(self, **settings: Any) -> KafkaTransport:
        settings = {"publish_timeout": 5.0, "partitions": 1, "session_timeout_ms": 6000, **settings}
        self._transports.append(KafkaTransport(self._broker.bootstrap_servers, **settings))
        return self._transports[-1]


@pytest.fixture
def topic(connect: Connect) -> str:
    name = f"jobs-{uuid.uuid4().hex[:12]}"
    connect().ensure_topics([Topic(name, retention=None)])
    return name


@pytest.fixture
def admin(kafka_broker: KafkaBroker) -> Iterator[KafkaAdminClient]:
    with kafka_broker.admin() as admin:
        yield admin


def recreate(admin: KafkaAdminClient, transport: KafkaTransport, topic: str) -> None:
    admin.delete_topics([topic])
    patiently(lambda: transport.ensure_topics([Topic(topic, retention=None)]))


def patiently(call: Callable[[], object]) -> None:
    """Repeat ``call`` while the broker is not ready for it."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            call()
            return
        except (InfrastructureError, KafkaError):
            if time.monotonic() > deadline:
                raise


def publish(transport: KafkaTransport, topic: str, *values: str) -> None:
    """Publish as the API does for a client that tries again."""
    for value in values:
        patiently(lambda value=value: transport.publish(Message(topic, value, value.encode())))  # type: ignore[misc]


def receive(subscription: Subscription) -> Delivery:
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        with suppress(InfrastructureError):
            if delivery := subscription.receive(0.5):
                return delivery
    raise AssertionError("nothing was received")


def wait_for_fault(subscription: Subscription, sentence: str) -> None:
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        try:
            subscription.receive(0.2)
        except InfrastructureError as error:
            if error.message.startswith(sentence):
                return
    raise AssertionError("the fault was not reported")


def settle_all(subscription: Subscription, wanted: set[str], *in_hand: Delivery) -> None:
    """Settle everything that is in hand or delivered, until ``wanted`` is done."""
    missing, pending = set(wanted), list(in_hand)
    while missing:
        delivery = pending.pop() if pending else receive(subscription)
        with suppress(CancelledError):
            patiently(lambda: subscription.settle(delivery))  # noqa: B023  called at once
            missing.discard(delivery.message.key)


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


@pytest.mark.parametrize("count", [3, 40], ids=["the new log is shorter", "the new log is longer"])
def test_recreated_topic_loses_nothing(count: int, connect: Connect, topic: str, admin: KafkaAdminClient) -> None:
    """Messages in memory go into the new log, which is read from its start."""
    transport = connect()
    publish(transport, topic, *names("old", 20))
    subscription = transport.subscribe([topic], "group")
    for _ in range(5):
        subscription.settle(receive(subscription))
    in_hand = receive(subscription)
    with capture_logs() as logs:
        recreate(admin, transport, topic)
        new = names("new", count)
        publish(transport, topic, *new)
        settle_all(subscription, {*names("old", 20)[5:], *new})
    assert in_hand.cancel.is_set()
    restored = [entry["count"] for entry in logs if entry["event"] == "messages_restored"]
    assert 1 <= sum(restored) <= 15, "at least the job in hand, and what had not been received before it was noticed"
    # A later member finds everything done.
    subscription.close()
    later = connect().subscribe([topic], "group")
    publish(transport, topic, "last")
    assert receive(later).message.key == "last"


def test_deleted_topic_is_reported_and_its_messages_are_kept(
    connect: Connect, topic: str, admin: KafkaAdminClient
) -> None:
    transport = connect()
    publish(transport, topic, "one", "two")
    subscription = transport.subscribe([topic], "group")
    receive(subscription)
    admin.delete_topics([topic])
    wait_for_fault(subscription, f"the topic {topic} does not exist")
    patiently(lambda: transport.ensure_topics([Topic(topic, retention=None)]))
    settle_all(subscription, {"one", "two"})


def committed_elsewhere(broker: KafkaBroker, topic: str, offset: int, metadata: str) -> None:
    """Commit for the group as a member would that has read another log of this name."""
    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap_servers, group_id="group", enable_auto_commit=False)
    consumer.assign([TopicPartition(topic, 0)])
    consumer.commit({TopicPartition(topic, 0): OffsetAndMetadata(offset, metadata, -1)})
    consumer.close()


def test_commit_of_an_earlier_topic_is_ignored(connect: Connect, topic: str, kafka_broker: KafkaBroker) -> None:
    """A member that settled into the new log before it noticed commits with the old topic's id."""
    transport = connect()
    publish(transport, topic, *names("job", 6))
    committed_elsewhere(kafka_broker, topic, 4, json.dumps({"topic": "0" * 32, "at": int(time.time())}))
    settle_all(transport.subscribe([topic], "group"), set(names("job", 6)))


def test_commit_beyond_the_end_of_the_log_is_ignored(connect: Connect, topic: str, kafka_broker: KafkaBroker) -> None:
    transport = connect()
    publish(transport, topic, *names("job", 3))
    committed_elsewhere(kafka_broker, topic, 1000, "")
    subscription = transport.subscribe([topic], "group")
    settle_all(subscription, set(names("job", 3)))
    publish(transport, topic, "later")
    settle_all(subscription, {"later"})


def test_commit_without_a_topic_id_is_trusted(connect: Connect, topic: str, kafka_broker: KafkaBroker) -> None:
    """Commits of earlier versions have none."""
    transport = connect()
    publish(transport, topic, "done", "attempted")
    committed_elsewhere(kafka_broker, topic, 1, '{"attempts":{"1":1}}')
    delivery = receive(transport.subscribe([topic], "group"))
    assert (delivery.message.key, delivery.attempt) == ("attempted", 2)


def test_deleted_records_do_not_stop_the_consumer(connect: Connect, topic: str, admin: KafkaAdminClient) -> None:
    """An operator deletes what is in the log: what is in memory is done, and later messages as well."""
    transport = connect()
    publish(transport, topic, *names("job", 10))
    subscription = transport.subscribe([topic], "group")
    subscription.settle(receive(subscription))
    admin.delete_records({TopicPartition(topic, 0): 8})
    publish(transport, topic, "later")
    settle_all(subscription, {*names("job", 10)[1:], "later"})


@pytest.mark.slow
def test_broker_restored_from_an_older_copy_loses_nothing_that_is_held_or_comes_later(
    tools_dir: Path, tmp_path: Path
) -> None:
    broker = KafkaBroker(tools_dir, tmp_path / "kafka")
    require(broker.start)
    try:
        with opened(broker) as connect:
            transport = connect()
            transport.ensure_topics([Topic("jobs", retention=None)])
            subscription = transport.subscribe(["jobs"], "group")
            publish(transport, "jobs", *names("before", 6))
            settle_all(subscription, set(names("before", 6)))
            broker.kill()
            shutil.copytree(tmp_path / "kafka", tmp_path / "copy")
            broker.start()

            publish(transport, "jobs", *names("lost", 12))
            for _ in range(4):
                subscription.settle(receive(subscription))
            in_hand = receive(subscription)
            broker.kill()
            shutil.rmtree(tmp_path / "kafka")
            shutil.copytree(tmp_path / "copy", tmp_path / "kafka")
            broker.start()

            # Before the member connects again, the new log is longer than the old one, with the same leader epochs.
            after = names("after", 20)
            connect().publish(*(Message("jobs", name, name.encode()) for name in after))
            publish(transport, "jobs", "last")
            settle_all(subscription, {*names("lost", 12)[4:], *after, "last"}, in_hand)
    finally:
        broker.kill()
