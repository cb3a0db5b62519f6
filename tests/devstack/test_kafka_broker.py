"""Test a real Apache Kafka: messages survive stops, crashes and changes of ports."""

import uuid
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from devstack.errors import ServerStartError
from devstack.kafka.broker import KafkaBroker, fetch_kafka
from tests.support.servers import require

# The first run on a machine fetches Kafka, which may take minutes.
pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(1200)]

ASK_SECONDS = 30.0


@pytest.fixture(scope="module")
def kafka_tools(tools_dir: Path) -> Path:
    require(lambda: fetch_kafka(tools_dir))
    return tools_dir


@pytest.fixture
def broker(kafka_tools: Path, tmp_path: Path) -> Iterator[KafkaBroker]:
    with KafkaBroker(kafka_tools, tmp_path / "kafka") as broker:
        yield broker


def create_topic(broker: KafkaBroker, partitions: int = 1) -> str:
    topic = f"t-{uuid.uuid4().hex}"
    with KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers) as admin:
        admin.create_topics({topic: {"num_partitions": partitions, "replication_factor": 1}})
    return topic


def produce(broker: KafkaBroker, topic: str, *values: bytes) -> None:
    with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        for value in values:
            producer.send(topic, value).get(ASK_SECONDS)


def consume(broker: KafkaBroker, topic: str, count: int, **options: object) -> list[bytes]:
    """Return the first `count` values of `topic`, or fewer if no more arrive within a deadline."""
    with KafkaConsumer(
        topic,
        bootstrap_servers=broker.bootstrap_servers,
        auto_offset_reset="earliest",
        consumer_timeout_ms=ASK_SECONDS * 1000,
        **options,
    ) as consumer:
        return [record.value for record in islice(consumer, count)]


def test_messages_survive_a_crash_and_a_stop(broker: KafkaBroker) -> None:
    topic = create_topic(broker)
    address = broker.bootstrap_servers
    produce(broker, topic, b"before the crash")
    broker.kill()
    assert not broker.running

    broker.start()
    produce(broker, topic, b"after it")
    broker.restart()

    assert broker.bootstrap_servers == address
    assert consume(broker, topic, 2) == [b"before the crash", b"after it"]


def test_data_serve_another_broker_on_other_ports(broker: KafkaBroker, kafka_tools: Path, tmp_path: Path) -> None:
    topic = create_topic(broker)
    produce(broker, topic, b"kept")
    broker.stop()
    with KafkaBroker(kafka_tools, tmp_path / "kafka") as other:
        assert other.bootstrap_servers != broker.bootstrap_servers
        assert consume(other, topic, 1) == [b"kept"]


def test_group_with_a_session_timeout_of_one_second_is_accepted(broker: KafkaBroker) -> None:
    topic = create_topic(broker)
    produce(broker, topic, b"1")
    group = {"group_id": "g", "session_timeout_ms": 1000, "heartbeat_interval_ms": 300}
    assert consume(broker, topic, 1, **group) == [b"1"]


def test_log_has_the_start_and_no_complaint_of_the_logging_library(broker: KafkaBroker, tmp_path: Path) -> None:
    log = (tmp_path / "kafka" / "kafka.log").read_text()
    assert "Kafka Server started" in log
    for noise in ("SLF4J", "StaticLoggerBinder", "Picked up", "sun.misc.Unsafe", " ERROR "):
        assert noise not in log


def test_second_broker_on_the_same_port_is_not_started(broker: KafkaBroker, kafka_tools: Path, tmp_path: Path) -> None:
    second = KafkaBroker(kafka_tools, tmp_path / "second", port=broker.port)
    with pytest.raises(ServerStartError, match=f"another process uses 127.0.0.1:{broker.port}"):
        second.start()
    assert not second.running
    assert broker.running
