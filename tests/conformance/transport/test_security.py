"""Tests of TLS and logins on real brokers: every method works; refusals are reported immediately, with their cause."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from config import KafkaSettings
from devstack.kafka.access import Access, Tls
from devstack.kafka.broker import KafkaBroker
from devstack.processes.process import free_port
from pipeline.errors import ErrorCode, InfrastructureError, RefusedError
from pipeline.transport.kafka.security import KafkaSecurity
from pipeline.transport.kafka.transport import KafkaTransport
from pipeline.transport.protocol import Message, Topic
from tests.conformance.transport import backends
from tests.support.certificates import KEY_PASSWORD, Certificates, make_certificates
from tests.support.servers import require

pytestmark = [
    *backends.NEEDS_KAFKA,
    pytest.mark.slow,
    # kafka-python also leaves sockets open after a failed handshake.
    pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning"),
]

USER, PASSWORD, WRONG = "separator", "the-right-password", "a-wrong-password"
UNKNOWN_USER = "unknown-user"
TIMEOUT = 45.0
#: Longer than a client waits for an unresponsive broker, so that only a refusal can be quick.
PUBLISH_TIMEOUT = 30.0

Connect = Callable[..., KafkaTransport]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def login_broker(
    tools_dir: Path, tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[KafkaBroker]:
    """Yield a broker with TLS, and logins by two SASL mechanisms."""
    access = Access(Tls(certificates.broker), ("PLAIN", "SCRAM-SHA-512"), {USER: PASSWORD})
    yield from started(KafkaBroker(tools_dir, tmp_path_factory.mktemp("login"), access=access))


@pytest.fixture(scope="module")
def mutual_broker(
    tools_dir: Path, tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[KafkaBroker]:
    """Yield a broker with mutual TLS."""
    access = Access(Tls(certificates.broker, client_authority=certificates.authority))
    yield from started(KafkaBroker(tools_dir, tmp_path_factory.mktemp("mutual"), access=access))


def started(broker: KafkaBroker) -> Iterator[KafkaBroker]:
    require(broker.start)
    yield broker
    broker.kill()  # its data are no longer needed


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Yield a function that opens connections with the given settings; they are closed after the test."""
    opened: list[KafkaTransport] = []

    def connect(bootstrap_servers: str, **settings: Any) -> KafkaTransport:
        publish_timeout = settings.pop("publish_timeout", PUBLISH_TIMEOUT)
        security = KafkaSecurity.from_settings(KafkaSettings(**settings))
        opened.append(
            KafkaTransport(bootstrap_servers, publish_timeout=publish_timeout, partitions=1, security=security)
        )
        return opened[-1]

    yield connect
    for transport in opened:
        transport.close()


def login(certificates: Certificates, mechanism: str = "SCRAM-SHA-512", **changes: Any) -> dict[str, Any]:
    return {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": mechanism,
        "sasl_username": USER,
        "sasl_password": PASSWORD,
        "ssl_ca_file": certificates.authority,
        **changes,
    }


def mutual(certificates: Certificates, **changes: Any) -> dict[str, Any]:
    return {
        "security_protocol": "SSL",
        "ssl_ca_file": certificates.authority,
        "ssl_cert_file": certificates.service,
        "ssl_key_file": certificates.service_key,
        "ssl_key_password": KEY_PASSWORD,
        **changes,
    }


def new_topic(transport: KafkaTransport) -> str:
    topic = f"jobs-{uuid.uuid4().hex[:12]}"
    transport.ensure_topics([Topic(topic, retention=3600)])
    return topic


def assert_jobs_are_processed(transport: KafkaTransport) -> None:
    transport.check()
    topic = new_topic(transport)
    transport.publish(Message(topic, "k", b"job"))
    subscription = transport.subscribe([topic], f"group-of-{topic}")
    delivery = subscription.receive(TIMEOUT)
    assert delivery is not None
    subscription.settle(delivery, Message(topic, "k", b"outcome"))
    assert [stored.message.value for stored in transport.browse(topic)] == [b"job", b"outcome"]


class TestAccepted:
    @pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
    def test_with_a_password(
        self, mechanism: str, login_broker: KafkaBroker, connect: Connect, certificates: Certificates
    ) -> None:
        assert_jobs_are_processed(connect(login_broker.bootstrap_servers, **login(certificates, mechanism)))

    def test_with_a_certificate(self, mutual_broker: KafkaBroker, connect: Connect, certificates: Certificates) -> None:
        assert_jobs_are_processed(connect(mutual_broker.bootstrap_servers, **mutual(certificates)))

    def test_with_another_host_name_if_names_are_not_checked(
        self, mutual_broker: KafkaBroker, connect: Connect, certificates: Certificates
    ) -> None:
        settings = mutual(certificates, ssl_check_hostname=False)
        connect(f"localhost:{mutual_broker.port}", **settings).check()


@dataclass(frozen=True)
class Mistake:
    """A misconfiguration, and a part of the advice about it."""

    advice: str
    changes: dict[str, Any]


def bad_logins(certificates: Certificates) -> dict[str, Mistake]:
    return {
        "password": Mistake("KAFKA_SASL_PASSWORD", {"sasl_password": WRONG}),
        "password, PLAIN": Mistake("KAFKA_SASL_PASSWORD", {"sasl_mechanism": "PLAIN", "sasl_password": WRONG}),
        "user": Mistake(f"'{UNKNOWN_USER}' with SCRAM-SHA-512", {"sasl_username": UNKNOWN_USER}),
        "mechanism": Mistake("KAFKA_SASL_MECHANISM", {"sasl_mechanism": "SCRAM-SHA-256"}),
        "authority": Mistake("KAFKA_SSL_CA_FILE", {"ssl_ca_file": certificates.stranger}),
    }


def bad_certificates(certificates: Certificates) -> dict[str, Mistake]:
    stranger = {"ssl_cert_file": certificates.strangers_service, "ssl_key_file": None, "ssl_key_password": None}
    none = dict.fromkeys(stranger)
    return {
        "no certificate": Mistake("KAFKA_SSL_CERT_FILE", none),
        "a stranger's certificate": Mistake("KAFKA_SSL_CERT_FILE", stranger),
        "login": Mistake(
            "KAFKA_SECURITY_PROTOCOL",
            {"security_protocol": "SASL_SSL", "sasl_username": USER, "sasl_password": PASSWORD},
        ),
    }


def check(transport: KafkaTransport) -> None:
    transport.check()


def publish(transport: KafkaTransport) -> None:
    transport.publish(Message("jobs", "k", b"job"))


def receive(transport: KafkaTransport) -> None:
    subscription = transport.subscribe(["jobs"], "group")
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        subscription.receive(0.2)


def browse(transport: KafkaTransport) -> None:
    list(transport.browse("jobs"))


@pytest.mark.parametrize("call", [check, publish, receive, browse])
class TestRefused:
    """The broker refuses the client or the client refuses the broker, whichever call comes first."""

    @pytest.mark.parametrize("case", ["password", "password, PLAIN", "user", "mechanism", "authority"])
    def test_for_a_bad_login(
        self,
        case: str,
        call: Callable[[KafkaTransport], None],
        login_broker: KafkaBroker,
        connect: Connect,
        certificates: Certificates,
    ) -> None:
        mistake = bad_logins(certificates)[case]
        transport = connect(login_broker.bootstrap_servers, **login(certificates, **mistake.changes))
        assert_refused(transport, call, login_broker.bootstrap_servers, mistake.advice)

    @pytest.mark.parametrize("case", ["no certificate", "a stranger's certificate", "login"])
    def test_for_a_bad_certificate(
        self,
        case: str,
        call: Callable[[KafkaTransport], None],
        mutual_broker: KafkaBroker,
        connect: Connect,
        certificates: Certificates,
    ) -> None:
        mistake = bad_certificates(certificates)[case]
        transport = connect(mutual_broker.bootstrap_servers, **mutual(certificates, **mistake.changes))
        assert_refused(transport, call, mutual_broker.bootstrap_servers, mistake.advice)

    def test_for_a_host_name_mismatch(
        self,
        call: Callable[[KafkaTransport], None],
        mutual_broker: KafkaBroker,
        connect: Connect,
        certificates: Certificates,
    ) -> None:
        address = f"localhost:{mutual_broker.port}"
        assert_refused(connect(address, **mutual(certificates)), call, address, "KAFKA_BOOTSTRAP_SERVERS")


def assert_refused(
    transport: KafkaTransport, call: Callable[[KafkaTransport], None], address: str, advice: str
) -> None:
    with pytest.raises(RefusedError) as raised:
        call(transport)
    error = raised.value
    assert error.code is ErrorCode.BROKER_REFUSED
    assert address in error.advice
    assert advice in error.advice
    # The message is public; no text may contain a password.
    for hidden in (address, USER, UNKNOWN_USER):
        assert hidden not in error.message
    for secret in (PASSWORD, WRONG, KEY_PASSWORD):
        assert secret not in f"{error.message} {error.advice} {error!r} {error.__cause__!r}"


class TestMismatchedProtocols:
    """Plain text to a TLS port, or the other way round, is not reported by the broker: a hint, but not a refusal."""

    def test_plain_text_to_a_tls_port(self, login_broker: KafkaBroker, connect: Connect) -> None:
        assert_protocol_hint(connect(login_broker.bootstrap_servers))

    def test_tls_to_a_plain_text_port(
        self, kafka_broker: KafkaBroker, connect: Connect, certificates: Certificates
    ) -> None:
        assert_protocol_hint(connect(kafka_broker.bootstrap_servers, **mutual(certificates)))

    def test_missing_login(self, login_broker: KafkaBroker, connect: Connect, certificates: Certificates) -> None:
        assert_protocol_hint(connect(login_broker.bootstrap_servers, **mutual(certificates)))

    def test_unreachable_broker(self, connect: Connect, certificates: Certificates) -> None:
        transport = connect(f"127.0.0.1:{free_port()}", **login(certificates))
        with pytest.raises(InfrastructureError) as raised:
            transport.check()
        assert raised.value.code is ErrorCode.BROKER_UNAVAILABLE
        assert "KAFKA_SECURITY_PROTOCOL" not in raised.value.message


def assert_protocol_hint(transport: KafkaTransport) -> None:
    with pytest.raises(InfrastructureError) as raised:
        transport.check()
    assert raised.value.code is ErrorCode.BROKER_UNAVAILABLE
    assert "KAFKA_SECURITY_PROTOCOL" in raised.value.message


class TestRestarts:
    @pytest.fixture
    def broker(self, tools_dir: Path, tmp_path: Path) -> Iterator[KafkaBroker]:
        yield from started(
            KafkaBroker(tools_dir, tmp_path / "kafka", access=Access(None, ("SCRAM-SHA-512",), {USER: PASSWORD}))
        )

    def test_restart_is_an_outage_and_changed_password_a_refusal(self, broker: KafkaBroker, connect: Connect) -> None:
        transport = connect(
            broker.bootstrap_servers,
            security_protocol="SASL_PLAINTEXT",
            sasl_username=USER,
            sasl_password=PASSWORD,
            publish_timeout=2.0,
        )
        topic = new_topic(transport)
        subscription = transport.subscribe([topic], "group")
        transport.publish(Message(topic, "k", b"before"))
        before = subscription.receive(TIMEOUT)
        assert before is not None
        broker.kill()
        # An outage is not a refusal, however long it lasts.
        with pytest.raises(InfrastructureError) as raised:
            transport.publish(Message(topic, "k", b"unavailable"))
        assert raised.value.code is ErrorCode.BROKER_UNAVAILABLE
        broker.start()
        until(lambda: subscription.settle(before, Message(topic, "k", b"after")))

        broker.access = Access(None, ("SCRAM-SHA-512",), {USER: WRONG})
        with broker.admin() as admin:
            broker.access.store_passwords(admin)
        broker.restart()  # existing connections would keep their authentication
        for call in (
            lambda: subscription.receive(0.5),
            lambda: transport.publish(Message(topic, "k", b"refused")),
            transport.check,
        ):
            with pytest.raises(RefusedError, match="user name or the password") as refused:
                until(call, refused=True)
            assert broker.bootstrap_servers in refused.value.advice


def until(call: Callable[[], object], *, refused: bool = False) -> None:
    """Repeat ``call`` until the broker is back, or until it refuses the client."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        try:
            call()
        except RefusedError:
            raise
        except InfrastructureError:
            continue
        if not refused:
            return
    pytest.fail("the broker has not responded")
