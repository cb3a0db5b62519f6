"""Tests specific to the Kafka engine, on a real broker.

Brokers that are down or hang, topics with partitions, rebalances, and the defects of kafka-python 3.0.12 for which the
engine has workarounds.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import kafka
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.structs import TopicPartition
from structlog.testing import capture_logs

from devstack.kafka.broker import KafkaBroker
from pipeline.errors import CancelledError, ErrorCode, InfrastructureError, PermanentError
from pipeline.transport.kafka import member
from pipeline.transport.kafka.client import KafkaClientFactory, finish_interrupted_join, force_close, is_joining
from pipeline.transport.kafka.transport import KafkaTransport
from pipeline.transport.protocol import Delivery, Message, Subscription, Topic
from tests.conformance.transport import backends
from tests.conformance.transport.backends import Backend
from tests.support.topic_settings import topic_setting

pytestmark = backends.NEEDS_KAFKA

TIMEOUT = 45.0
PUBLISH_TIMEOUT = 1.5
#: Tolerance beyond a call's own timeout, s: closing a client, and a busy machine.
SLACK = 5.0

#: The defects are demonstrated for the pinned version; another version has to be checked again.
shows_a_defect = pytest.mark.skipif(kafka.__version__ != "3.0.12", reason="a defect of kafka-python 3.0.12")


@pytest.fixture
def connect(kafka_broker: KafkaBroker) -> Iterator[Callable[..., KafkaTransport]]:
    """Yield a function that opens connections with a service's timeouts; they are closed after the test."""
    opened: list[KafkaTransport] = []

    def connect(**settings: Any) -> KafkaTransport:
        settings = {"publish_timeout": PUBLISH_TIMEOUT, "partitions": 1, "session_timeout_ms": 4000, **settings}
        opened.append(KafkaTransport(kafka_broker.bootstrap_servers, **settings))
        return opened[-1]

    yield connect
    kafka_broker.resume()
    for transport in opened:
        transport.close()


@pytest.fixture
def topic(connect: Callable[..., KafkaTransport]) -> str:
    name = f"jobs-{uuid.uuid4().hex[:12]}"
    connect().ensure_topics([Topic(name, retention=3600)])
    return name


@pytest.fixture
def group(topic: str) -> str:
    return f"group-of-{topic}"


@pytest.fixture
def admin(kafka_broker: KafkaBroker) -> Iterator[KafkaAdminClient]:
    with KafkaAdminClient(bootstrap_servers=kafka_broker.bootstrap_servers) as admin:
        yield admin


def receive(subscription: Subscription) -> Delivery:
    """Return the next delivery; the client may first have to find its broker or a new topic."""
    return receive_from_any([subscription])[1]


def publish_with_retries(transport: KafkaTransport, *messages: Message) -> None:
    """Publish to a broker that has just started: finding it may take longer than one publish timeout."""
    until = time.monotonic() + TIMEOUT
    while isinstance(bounded(lambda: transport.publish(*messages), TIMEOUT), InfrastructureError):
        assert time.monotonic() < until


def await_fault(subscription: Subscription) -> InfrastructureError:
    """Return the error that ``receive`` raises."""
    until = time.monotonic() + TIMEOUT
    while True:
        try:
            assert subscription.receive(0.5) is None
        except InfrastructureError as error:
            return error
        assert time.monotonic() < until


def stored_values(transport: KafkaTransport, topic: str) -> list[bytes]:
    """Return the values in the topic up to now; a final message is published to mark its end."""
    end = uuid.uuid4().bytes
    transport.publish(Message(topic, "k", end))
    subscription = transport.subscribe([topic], f"reader-{uuid.uuid4().hex}")
    found: list[bytes] = []
    while not found or found[-1] != end:
        delivery = receive(subscription)
        subscription.settle(delivery)
        found.append(delivery.message.value)
    return found[:-1]


def bounded(call: Callable[[], object], seconds: float) -> BaseException | None:
    """Return what ``call`` raises. Raises AssertionError if it has not returned after ``seconds``."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001  returned to the caller
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"the call takes longer than {seconds} s"
    return raised[0] if raised else None


@dataclass(frozen=True)
class Footprint:
    """The limited resources that this process uses."""

    threads: int
    files: int

    @classmethod
    def now(cls) -> Footprint:
        return cls(threading.active_count(), len(os.listdir("/proc/self/fd")))

    def holds(self) -> bool:
        """Return True if the footprint has not grown."""
        now = Footprint.now()
        return now.threads <= self.threads and now.files <= self.files


class TestBrokerDown:
    @pytest.mark.slow
    def test_services_start_without_a_broker_and_work_once_it_is_up(
        self, kafka_broker: KafkaBroker, connect: Callable[..., KafkaTransport], topic: str, group: str
    ) -> None:
        kafka_broker.kill()
        transport = connect()
        subscription = transport.subscribe([topic], group)

        refused = bounded(lambda: transport.publish(Message(topic, "k", b"refused")), PUBLISH_TIMEOUT + SLACK)
        unready = bounded(transport.check, SLACK)
        received = bounded(lambda: subscription.receive(0.0), SLACK)
        lost = bounded(lambda: transport.emit(Message(topic, "k", b"report")), 1.0)

        assert isinstance(refused, InfrastructureError)
        assert refused.code is ErrorCode.BROKER_UNAVAILABLE
        assert isinstance(unready, InfrastructureError)
        assert received is None or isinstance(received, InfrastructureError)
        assert lost is None

        kafka_broker.start()
        transport.check()
        publish_with_retries(transport, Message(topic, "k", b"accepted"))
        delivery = receive(subscription)
        subscription.settle(delivery)
        assert delivery.message.value == b"accepted"
        assert b"refused" not in stored_values(transport, topic)

    @pytest.mark.slow
    def test_waiting_for_the_broker_leaks_no_resources(
        self, kafka_broker: KafkaBroker, connect: Callable[..., KafkaTransport], topic: str
    ) -> None:
        kafka_broker.kill()
        transport = connect(publish_timeout=0.2)
        with pytest.raises(InfrastructureError):
            transport.publish(Message(topic, "k", b""))
        before = Footprint.now()
        for _ in range(2):
            with pytest.raises(InfrastructureError):
                transport.publish(Message(topic, "k", b""))
            with pytest.raises(InfrastructureError):
                transport.check()
            with pytest.raises(InfrastructureError):
                transport.ensure_topics([Topic("t", 1)])
        gc.collect()
        assert before.holds()

    @pytest.mark.slow
    def test_open_job_is_settled_once_the_broker_is_back(
        self, kafka_broker: KafkaBroker, connect: Callable[..., KafkaTransport], topic: str, group: str
    ) -> None:
        results = f"results-{topic}"
        transport = connect(session_timeout_ms=30_000)
        transport.ensure_topics([Topic(results, retention=3600)])
        transport.publish(Message(topic, "k", b"first"), Message(topic, "k", b"second"))
        subscription = transport.subscribe([topic], group)
        delivery = receive(subscription)
        kafka_broker.kill()

        def settle() -> None:
            subscription.settle(delivery, Message(results, "k", b"done"))

        refused = bounded(settle, 2 * PUBLISH_TIMEOUT + SLACK)
        assert isinstance(refused, InfrastructureError)
        kafka_broker.start()
        until = time.monotonic() + TIMEOUT
        while isinstance(bounded(settle, 2 * PUBLISH_TIMEOUT + SLACK), InfrastructureError):
            assert time.monotonic() < until

        assert not delivery.cancel.is_set()
        assert stored_values(transport, results) == [b"done"]
        second = receive(subscription)
        assert (second.message.value, second.attempt) == (b"second", 1)
        subscription.settle(second)
        transport.close()
        late = connect()
        late.publish(Message(topic, "k", b"third"))
        assert receive(late.subscribe([topic], group)).message.value == b"third"

    @pytest.mark.slow
    @pytest.mark.parametrize("how", ["hangs", "is gone"])
    def test_idle_consumer_detects_the_outage(
        self, how: str, kafka_broker: KafkaBroker, connect: Callable[..., KafkaTransport], topic: str, group: str
    ) -> None:
        """The polls of kafka-python do not raise."""
        transport = connect()
        transport.publish(Message(topic, "k", b"job"))
        subscription = transport.subscribe([topic], group)
        subscription.settle(receive(subscription))
        if how == "hangs":
            kafka_broker.pause()
        else:
            kafka_broker.kill()

        assert await_fault(subscription).code is ErrorCode.BROKER_UNAVAILABLE

        kafka_broker.resume()
        kafka_broker.start()
        publish_with_retries(transport, Message(topic, "k", b"next"))
        assert receive(subscription).message.value == b"next"

    @pytest.mark.slow
    def test_joining_consumer_detects_the_outage(
        self, kafka_broker: KafkaBroker, connect: Callable[..., KafkaTransport], topic: str, group: str
    ) -> None:
        """The response to a JoinGroup request may take minutes, while another member does not rejoin."""
        transport = connect()
        with raw_consumer(kafka_broker, group) as silent:
            silent.subscribe([topic])
            until = time.monotonic() + TIMEOUT
            while not silent.assignment():
                silent.poll(timeout_ms=100)
                assert time.monotonic() < until
            subscription = transport.subscribe([topic], group)
            # Longer than the timeout for a hanging broker, without a fault.
            assert subscription.receive(2 * member.COORDINATOR_TIMEOUT) is None
            kafka_broker.pause()
            assert await_fault(subscription).code is ErrorCode.BROKER_UNAVAILABLE
            kafka_broker.resume()

    def test_receive_does_not_wait_for_a_hung_client(
        self, connect: Callable[..., KafkaTransport], topic: str, group: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(member, "STALL_TIMEOUT", 0.5)
        release = threading.Event()
        subscription = connect().subscribe([topic], group)
        monkeypatch.setattr(KafkaConsumer, "poll", lambda *_arguments, **_options: release.wait(TIMEOUT) and {})
        with capture_logs() as log:
            assert "has not returned" in await_fault(subscription).message
        (stuck,) = [line for line in log if line["event"] == "kafka_client_stuck"]
        assert any("member.py" in call for call in stuck["stack"])
        monkeypatch.undo()
        release.set()


class TestBrokerHangs:
    @pytest.mark.slow
    def test_calls_time_out_and_nothing_is_sent_later(
        self, kafka_broker: KafkaBroker, connect: Callable[..., KafkaTransport], topic: str
    ) -> None:
        """A frozen broker has the requests in flight in its socket buffer, and stores them when it resumes.

        A client cannot revoke them. Messages published after the first failure must never be stored.
        """
        transport = connect()
        transport.publish(Message(topic, "k", b"before"))
        before = Footprint.now()
        kafka_broker.pause()

        failures: list[BaseException | None] = []

        def failure_of(value: bytes) -> BaseException | None:
            return bounded(lambda: transport.publish(Message(topic, "k", value)), PUBLISH_TIMEOUT + SLACK)

        in_flight = [threading.Thread(target=lambda: failures.append(failure_of(b"in flight"))) for _ in range(4)]
        for thread in in_flight:
            thread.start()
        for thread in in_flight:
            thread.join(TIMEOUT)
        assert [type(failure) for failure in failures] == [InfrastructureError] * 4
        assert isinstance(failure_of(b"later" + bytes(900_000)), InfrastructureError)
        assert isinstance(bounded(transport.check, SLACK + 2.0), InfrastructureError)
        gc.collect()
        assert before.holds()

        kafka_broker.resume()
        found = stored_values(transport, topic)
        assert found[0] == b"before"
        assert not [value for value in found if value.startswith(b"later")]
        assert found.count(b"in flight") <= 4

    @pytest.mark.parametrize("known", [True, False], ids=["to a known topic", "to a new topic"])
    def test_callers_of_a_discarded_shared_client_get_an_infrastructure_error(
        self, known: bool, connect: Callable[..., KafkaTransport], topic: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The client is closed while another caller is about to send, so it may fail at any point of the call."""
        transport = connect()
        transport.publish(Message(topic, "k", b"before"))
        producer, shared = transport._producer, transport._producer._client
        assert shared is not None
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(producer, "_connected", lambda _deadline: shared)
            producer._discard(shared)
            with pytest.raises(InfrastructureError):
                transport.publish(Message(topic if known else f"{topic}-new", "k", b"late"))
        transport.publish(Message(topic, "k", b"after"))
        assert stored_values(transport, topic) == [b"before", b"after"]

    @pytest.mark.slow
    def test_refused_probed_publish_is_never_stored(
        self, kafka_broker: KafkaBroker, connect: Callable[..., KafkaTransport], topic: str
    ) -> None:
        transport, probe = connect(), Message(f"{topic}-trials", "pulse", b"")
        transport.ensure_topics([Topic(probe.topic, 3600)])
        transport.publish_probed(Message(topic, "k", b"before"), probe=probe)
        kafka_broker.pause()
        for _ in range(3):
            publish = partial(transport.publish_probed, Message(topic, "k", b"refused"), probe=probe)
            assert isinstance(bounded(publish, PUBLISH_TIMEOUT + SLACK), InfrastructureError)
        kafka_broker.resume()

        until = time.monotonic() + TIMEOUT
        publish = partial(transport.publish_probed, Message(topic, "k", b"after"), probe=probe)
        while isinstance(bounded(publish, PUBLISH_TIMEOUT + SLACK), InfrastructureError):
            assert time.monotonic() < until

        assert stored_values(transport, topic) == [b"before", b"after"]

    def test_force_closed_producer_releases_its_resources(self, kafka_broker: KafkaBroker, topic: str) -> None:
        clients = KafkaClientFactory(
            kafka_broker.bootstrap_servers, 10.0, max_poll_interval_ms=60_000, session_timeout_ms=6000
        )
        before = Footprint.now()
        producer = clients.producer(10.0)
        producer.partitions_for(topic)
        kafka_broker.pause()
        futures = [producer.send(topic, bytes(900_000)) for _ in range(30)]  # more than its socket buffer holds
        force_close(producer)
        assert all(future.failed() for future in futures)
        assert before.holds()

    @pytest.mark.slow
    @pytest.mark.parametrize("how", ["hangs", "is gone"])
    def test_subscription_can_be_closed_without_a_broker(
        self, how: str, kafka_broker: KafkaBroker, connect: Callable[..., KafkaTransport], topic: str, group: str
    ) -> None:
        before = Footprint.now()
        transport = connect()
        transport.publish(Message(topic, "k", b"job"))
        delivery = receive(transport.subscribe([topic], group))
        if how == "hangs":
            kafka_broker.pause()
        else:
            kafka_broker.kill()

        assert bounded(transport.close, 15.0 + SLACK) is None

        assert delivery.cancel.is_set()
        gc.collect()
        assert before.holds()


def partition_counts(admin: KafkaAdminClient, *topics: str) -> list[int]:
    described = {topic["name"]: topic for topic in admin.describe_topics(list(topics))}
    return [len(described[name]["partitions"]) for name in topics]


class TestTopics:
    def test_topics_are_created_with_partitions_and_retention(
        self, connect: Callable[..., KafkaTransport], admin: KafkaAdminClient
    ) -> None:
        kept, dropped = (f"{purpose}-{uuid.uuid4().hex[:12]}" for purpose in ("kept", "dropped"))
        connect(partitions=5).ensure_topics([Topic(kept, None), Topic(dropped, 90.5)])

        until = time.monotonic() + TIMEOUT
        while (found := partition_counts(admin, kept, dropped)) != [5, 5]:  # the topics may not have propagated yet
            assert time.monotonic() < until, found
        assert [topic_setting(admin, name, "retention.ms") for name in (kept, dropped)] == ["-1", "90500"]

    def test_topics_can_be_created_concurrently_and_repeatedly(
        self, connect: Callable[..., KafkaTransport], admin: KafkaAdminClient
    ) -> None:
        names = [f"shared-{uuid.uuid4().hex[:12]}" for _ in range(3)]
        topics = [Topic(name, 60) for name in names]
        transports = [connect(partitions=2), connect(partitions=2)]
        start = threading.Barrier(2)
        failures: list[BaseException | None] = []

        def make(transport: KafkaTransport) -> None:
            start.wait(TIMEOUT)
            failures.append(bounded(lambda: transport.ensure_topics(topics), TIMEOUT))

        threads = [threading.Thread(target=make, args=(transport,)) for transport in transports]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
        connect(partitions=7).ensure_topics([Topic(name, 999) for name in names])

        assert failures == [None, None]
        assert {len(topic["partitions"]) for topic in admin.describe_topics(names)} == {2}
        assert {topic_setting(admin, name, "retention.ms") for name in names} == {"60000"}

    def test_more_replicas_than_brokers_is_reported_with_its_cause(
        self, connect: Callable[..., KafkaTransport]
    ) -> None:
        with pytest.raises(InfrastructureError, match="KAFKA_REPLICATION_FACTOR"):
            connect(replication_factor=3).ensure_topics([Topic(f"t-{uuid.uuid4().hex}", 60)])

    @pytest.mark.slow
    def test_missing_topic_is_waited_for(self, connect: Callable[..., KafkaTransport]) -> None:
        name = f"late-{uuid.uuid4().hex[:12]}"
        transport = connect()
        subscription = transport.subscribe([name], f"group-of-{name}")
        assert subscription.receive(1.0) is None, "a topic that was just created may be unknown to a broker"
        with pytest.raises(InfrastructureError, match=f"the topic {name} does not exist"):
            subscription.receive(member.YOUNG_TOPIC + SLACK)
        transport.ensure_topics([Topic(name, 60)])
        transport.publish(Message(name, "k", b"job"))
        assert receive(subscription).message.value == b"job"

    @pytest.mark.slow
    def test_partitions_added_at_runtime_are_consumed(
        self,
        kafka_broker: KafkaBroker,
        connect: Callable[..., KafkaTransport],
        admin: KafkaAdminClient,
        topic: str,
        group: str,
    ) -> None:
        subscriptions = [connect().subscribe([topic], group) for _ in range(2)]
        connect().publish(Message(topic, "k", b"0"))
        held = receive_from_any(subscriptions)[1]

        admin.create_partitions({topic: 4})
        with KafkaProducer(bootstrap_servers=kafka_broker.bootstrap_servers) as producer:
            for partition in (1, 2, 3):
                producer.send(topic, str(partition).encode(), partition=partition).get(TIMEOUT)

        seen: dict[int, bytes] = {}
        while len(seen) < 3:
            subscription, delivery = receive_from_any(subscriptions)
            try:
                subscription.settle(delivery)
            except CancelledError:
                continue  # the partition has moved to the other member
            if delivery.message.value != b"0":
                seen[delivery.partition] = delivery.message.value
        assert seen == {1: b"1", 2: b"2", 3: b"3"}
        assert held.message.value == b"0"

    def test_message_larger_than_the_topic_allows_is_a_permanent_error(
        self, connect: Callable[..., KafkaTransport], admin: KafkaAdminClient
    ) -> None:
        name = f"small-{uuid.uuid4().hex[:12]}"
        small = {"num_partitions": 1, "replication_factor": 1, "configs": {"max.message.bytes": "1000"}}
        admin.create_topics({name: small})
        transport = connect(publish_timeout=10.0)
        with pytest.raises(PermanentError) as refused:
            transport.publish(Message(name, "k", bytes(2000)))
        assert refused.value.code is ErrorCode.MESSAGE_TOO_LARGE
        transport.publish(Message(name, "k", b"small"))  # by a new client: the old one rejects all further messages
        assert stored_values(transport, name) == [b"small"]


def receive_from_any(subscriptions: Sequence[Subscription]) -> tuple[Subscription, Delivery]:
    until = time.monotonic() + TIMEOUT
    while time.monotonic() < until:
        for subscription in subscriptions:
            with suppress(InfrastructureError):
                delivery = subscription.receive(0.1)
                if delivery is not None:
                    return subscription, delivery
    raise AssertionError("no delivery")


class TestRebalances:
    @pytest.mark.slow
    def test_partition_revoked_during_a_job_counts_no_attempt(self, connect: Callable[..., KafkaTransport]) -> None:
        topic = f"moving-{uuid.uuid4().hex[:12]}"
        transport = connect(partitions=2, publish_timeout=10.0)
        transport.ensure_topics([Topic(topic, 3600)])
        stayer = transport.subscribe([topic], f"group-of-{topic}")
        publish_one_per_partition(transport, topic)
        open_deliveries = {delivery.partition: delivery for delivery in (receive(stayer), receive(stayer))}
        for _ in range(4):
            newcomer = connect(publish_timeout=10.0).subscribe([topic], f"group-of-{topic}")
            moved = receive(newcomer)
            assert open_deliveries[moved.partition].cancel.wait(TIMEOUT)
            assert moved.attempt == 1
            with pytest.raises(CancelledError):
                stayer.settle(open_deliveries[moved.partition])
            newcomer.close()
            back = receive(stayer)
            assert (back.partition, back.attempt) == (moved.partition, 1)
            open_deliveries[back.partition] = back
        assert not any(delivery.cancel.is_set() for delivery in open_deliveries.values())
        for delivery in open_deliveries.values():
            stayer.settle(delivery)

    @pytest.mark.slow
    def test_concurrent_leaving_counts_no_attempt(self, connect: Callable[..., KafkaTransport]) -> None:
        topic = f"leaving-{uuid.uuid4().hex[:12]}"
        transport = connect(partitions=2, publish_timeout=10.0)
        transport.ensure_topics([Topic(topic, 3600)])
        members = [connect(publish_timeout=10.0).subscribe([topic], f"group-of-{topic}") for _ in range(2)]
        publish_one_per_partition(transport, topic)
        held: dict[int, Delivery] = {}
        while len(held) < 2 or any(delivery.cancel.is_set() for delivery in held.values()):
            delivery = receive_from_any(members)[1]
            held[delivery.partition] = delivery
        closing = [threading.Thread(target=member.close) for member in members]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join(TIMEOUT)
        last = transport.subscribe([topic], f"group-of-{topic}")
        assert [receive(last).attempt, receive(last).attempt] == [1, 1]

    @pytest.mark.slow
    def test_returning_member_does_not_take_back_its_partition(self, kafka_broker: KafkaBroker, group: str) -> None:
        """kafka-python's own assignor (3.0.12) assigns the partition to it in about half of the cases."""
        with backends.kafka(kafka_broker.bootstrap_servers, partitions=1) as backend:
            for _ in range(2):
                check_that_a_returning_member_receives_nothing(backend, f"{group}-{uuid.uuid4().hex}")


def check_that_a_returning_member_receives_nothing(backend: Backend, group: str) -> None:
    topic = backend.topic()
    backend.open().publish(Message(topic, "k", b"job"))
    away = backend.member(topic, group, mode="hold")
    away.read_report()
    away.process.send_signal(signal.SIGSTOP)
    subscription = backend.open().subscribe([topic], group)
    delivery = receive(subscription)
    away.process.send_signal(signal.SIGCONT)
    away.send("settle")
    assert away.read_report() == {"event": "refused", "cancelled": True}
    assert not delivery.cancel.wait(1.0)  # long enough for a rebalance
    subscription.settle(delivery)
    away.end()


def publish_one_per_partition(transport: KafkaTransport, topic: str) -> None:
    transport.publish(*[Message(topic, f"key-{number}", b"job") for number in KEYS_OF_TWO_PARTITIONS])


#: Two keys that murmur2 sends to different partitions of two.
KEYS_OF_TWO_PARTITIONS = (0, 1)


def raw_consumer(broker: KafkaBroker, group: str, **settings: Any) -> KafkaConsumer:
    """Create a client as the engine configures it, except for ``settings``."""
    clients = KafkaClientFactory(broker.bootstrap_servers, 10.0, max_poll_interval_ms=60_000, session_timeout_ms=10_000)
    consumer = clients.consumer(group)
    consumer.config.update(settings)
    return consumer


class TestClientDefects:
    """Demonstrates the defects of kafka-python 3.0.12 on a real broker, and tests the engine's workarounds."""

    PARTITIONS, RECORDS = 4, 20

    @pytest.fixture
    def backlog(self, kafka_broker: KafkaBroker, connect: Callable[..., KafkaTransport]) -> str:
        name = f"backlog-{uuid.uuid4().hex[:12]}"
        connect(partitions=self.PARTITIONS).ensure_topics([Topic(name, 3600)])
        with KafkaProducer(bootstrap_servers=kafka_broker.bootstrap_servers) as producer:
            for number in range(self.RECORDS):
                producer.send(name, b"", partition=number % self.PARTITIONS).get(TIMEOUT)
        return name

    def read_pausing(self, consumer: KafkaConsumer, topic: str, seconds: float) -> int:
        """Return the number of records received if each partition is paused and resumed after each batch."""
        consumer.subscribe([topic])
        found = 0
        until = time.monotonic() + seconds
        while found < self.RECORDS and time.monotonic() < until:
            for partition, records in consumer.poll(timeout_ms=500).items():
                found += len(records)
                consumer.pause(partition)
                consumer.poll(timeout_ms=20)
                consumer.resume(partition)
        consumer.close()
        return found

    def test_pausing_loses_nothing_if_polls_return_all_records(
        self, kafka_broker: KafkaBroker, backlog: str, group: str
    ) -> None:
        assert self.read_pausing(raw_consumer(kafka_broker, group), backlog, TIMEOUT) == self.RECORDS

    @shows_a_defect
    @pytest.mark.slow
    def test_pausing_stalls_partitions_if_polls_return_few_records(
        self, kafka_broker: KafkaBroker, backlog: str, group: str
    ) -> None:
        consumer = raw_consumer(kafka_broker, group, max_poll_records=1)
        assert self.read_pausing(consumer, backlog, 5.0) < self.RECORDS

    def join(self, consumer: KafkaConsumer, topic: str) -> None:
        consumer.partitions_for_topic(topic)
        consumer.subscribe([topic])
        until = time.monotonic() + TIMEOUT
        while not consumer.assignment() or is_joining(consumer):
            consumer.poll(timeout_ms=500)
            assert time.monotonic() < until

    def let_a_join_complete_without_polling(self, consumer: KafkaConsumer) -> None:
        """Poll until a join has begun, then wait without polling until it is done."""
        until = time.monotonic() + TIMEOUT
        while consumer._coordinator._join_task is None:
            consumer.poll(timeout_ms=1)
            assert time.monotonic() < until
        while not consumer._coordinator._join_task.is_done:
            threading.Event().wait(0.01)
            assert time.monotonic() < until

    def interrupt_a_join_for_new_partitions(self, consumer: KafkaConsumer, admin: KafkaAdminClient, topic: str) -> None:
        self.join(consumer, topic)
        admin.create_partitions({topic: 2})
        until = time.monotonic() + TIMEOUT
        while consumer.partitions_for_topic(topic) != {0, 1}:
            consumer.topics()  # refreshes the metadata
            assert time.monotonic() < until
        self.let_a_join_complete_without_polling(consumer)

    @shows_a_defect
    @pytest.mark.slow
    def test_interrupted_join_stalls_the_member(
        self, kafka_broker: KafkaBroker, admin: KafkaAdminClient, topic: str, group: str
    ) -> None:
        consumer = raw_consumer(kafka_broker, group)
        self.interrupt_a_join_for_new_partitions(consumer, admin, topic)
        until = time.monotonic() + 3.0
        while time.monotonic() < until:
            consumer.poll(timeout_ms=200)
        assert consumer._coordinator.rebalance_in_progress()
        assert consumer.assignment() == {TopicPartition(topic, 0)}
        consumer.close()

    @pytest.mark.slow
    def test_request_to_rejoin_completes_an_interrupted_join(
        self, kafka_broker: KafkaBroker, admin: KafkaAdminClient, topic: str, group: str
    ) -> None:
        consumer = raw_consumer(kafka_broker, group)
        self.interrupt_a_join_for_new_partitions(consumer, admin, topic)
        until = time.monotonic() + TIMEOUT
        while consumer.assignment() != {TopicPartition(topic, 0), TopicPartition(topic, 1)}:
            consumer.poll(timeout_ms=200)
            finish_interrupted_join(consumer)
            assert time.monotonic() < until
        assert consumer._coordinator.stable()
        consumer.close()

    @shows_a_defect
    def test_join_that_completes_between_polls_is_discarded(
        self, kafka_broker: KafkaBroker, topic: str, group: str
    ) -> None:
        consumer = raw_consumer(kafka_broker, group)
        consumer.partitions_for_topic(topic)
        consumer.subscribe([topic])
        for _ in range(3):
            self.let_a_join_complete_without_polling(consumer)
            discarded = consumer._coordinator._join_task
            assert is_joining(consumer)
            until = time.monotonic() + TIMEOUT
            while consumer._coordinator._join_task is discarded:
                consumer.poll(timeout_ms=1)
                assert time.monotonic() < until
            assert is_joining(consumer)
        self.join(consumer, topic)  # long polls during the join complete it
        consumer.close()
