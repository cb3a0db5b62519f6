"""Tests of the additions to kafka-python's network layer, against sockets that behave as brokers may."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.errors import KafkaTimeoutError, SaslAuthenticationFailedError
from structlog.testing import capture_logs

from devstack.processes.process import free_port
from pipeline.transport.kafka.client import last_refusal
from pipeline.transport.kafka.errors import BrokerDisconnectedError
from pipeline.transport.kafka.network import NetworkClient, create_client
from tests.support.kafka_litter import LEAVES_SOCKETS

pytestmark = [*LEAVES_SOCKETS, pytest.mark.usefixtures("no_kafka_litter")]

BOOTSTRAP_MS = 500


@contextmanager
def listening(answer: Callable[[socket.socket], object]) -> Iterator[str]:
    """Yield the address of a server that answers every client with ``answer``, then disconnects."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):  # a client has disconnected, or the test is over
                while True:
                    client, _ = server.accept()
                    with client, suppress(OSError):
                        answer(client)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def connect(address: str) -> None:
    create_client(KafkaAdminClient, bootstrap_servers=[address], bootstrap_timeout_ms=BOOTSTRAP_MS)


def test_data_received_with_the_end_of_a_connection_is_kept() -> None:
    """The data carries the cause: a broker rejects a password and disconnects."""
    with listening(lambda client: client.sendall(b"the reason")) as address:
        network = NetworkClient(bootstrap_servers=[address])
        (broker,) = network.cluster.bootstrap_brokers()
        transport = network._net.run(network._manager._build_transport, broker)
        wait_for_disconnect(transport._sock)
        assert transport._sock_recv() == (b"the reason", None)
        nothing, error = transport._sock_recv()
        assert nothing == b""
        assert error is not None
        transport.abort(error)
        network.close()


def wait_for_disconnect(connected: socket.socket) -> None:
    """Wait until the last bytes and the end of the connection have arrived."""
    poll = select.poll()
    poll.register(connected, select.POLLRDHUP)
    assert poll.poll(30_000), "the other side has not disconnected"


@pytest.mark.parametrize(
    ("read", "reply"),
    [(1, b""), (1000, b""), (1000, b"\x15\x03\x03\x00\x02\x02\x46")],
    ids=["reset", "no reply", "TLS alert"],
)
def test_disconnect_is_distinguished_from_an_unreachable_broker(read: int, reply: bytes) -> None:
    def disconnect(client: socket.socket) -> None:
        client.recv(read)
        client.sendall(reply)

    with listening(disconnect) as address, pytest.raises(BrokerDisconnectedError):
        connect(address)
    with pytest.raises(KafkaTimeoutError) as raised:
        connect(f"127.0.0.1:{free_port()}")
    assert not isinstance(raised.value, BrokerDisconnectedError)


def test_silent_broker_is_not_a_disconnect() -> None:
    over = threading.Event()
    with listening(lambda _: over.wait(30)) as address:
        with pytest.raises(KafkaTimeoutError) as raised:
            connect(address)
        over.set()
    assert not isinstance(raised.value, BrokerDisconnectedError)


def test_refusal_that_is_not_recorded_yet_names_the_configured_brokers() -> None:
    settings = {
        "bootstrap_servers": ["kafka-1:9092", "kafka-2:9092"],
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "uvr",
        "sasl_plain_password": "sesame",
    }
    client: Any = SimpleNamespace(_client=NetworkClient(bootstrap_servers=["127.0.0.1:9"]), config=settings)

    assert last_refusal(client, KafkaTimeoutError()) is None
    refusal = last_refusal(client, SaslAuthenticationFailedError())

    assert refusal is not None
    assert refusal.advice.startswith("the broker kafka-1:9092, kafka-2:9092 rejected the user 'uvr' with SCRAM-SHA-512")
    assert "sesame" not in refusal.advice
    client._client.close()


def unreachable(address: str, milliseconds: int = 200) -> list[tuple[str, str, str]]:
    """Return address, reason and advice of each line that is logged while a client looks for the broker."""
    with capture_logs() as log, pytest.raises(KafkaTimeoutError):
        create_client(KafkaAdminClient, bootstrap_servers=[address], bootstrap_timeout_ms=milliseconds)
    return [(line["address"], line["reason"], line["check"]) for line in log if line["event"] == "broker_unreachable"]


def test_reason_for_an_unreachable_broker_is_logged_once() -> None:
    refused, unknown = f"127.0.0.1:{free_port()}", "no-such-host.invalid:9092"
    assert unreachable(refused) == [(refused, "connection refused", "KAFKA_BOOTSTRAP_SERVERS")]
    assert unreachable(unknown) == [(unknown, "the host name is unknown (DNS)", "KAFKA_BOOTSTRAP_SERVERS")]
    assert unreachable(refused) == []


def test_broker_that_does_not_answer_is_logged() -> None:
    over = threading.Event()
    with listening(lambda _: over.wait(30)) as address:
        assert unreachable(address, 1200) == [(address, "timeout", "KAFKA_BOOTSTRAP_SERVERS")]
        over.set()
