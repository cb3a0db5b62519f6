"""Tests of the TLS and login settings, and of the classification of refusals. No broker is needed."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kafka import errors as kafka_errors

from config import ConfigError, KafkaSettings
from pipeline.errors import ErrorCode, InfrastructureError, RefusedError
from pipeline.transport.kafka.errors import BrokerDisconnectedError, translate_kafka_error
from pipeline.transport.kafka.security import KafkaSecurity
from tests.support.certificates import KEY_PASSWORD, Certificates, make_certificates


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def security(**settings: Any) -> KafkaSecurity:
    return KafkaSecurity.from_settings(KafkaSettings(**settings))


class TestSettings:
    def test_default_is_plain_text_without_login(self) -> None:
        assert security().client_settings() == {"security_protocol": "PLAINTEXT"}

    def test_a_login_without_tls(self) -> None:
        settings = security(security_protocol="SASL_PLAINTEXT", sasl_username="u", sasl_password="p").client_settings()
        assert settings == {
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_plain_username": "u",
            "sasl_plain_password": "p",
        }

    def test_settings_unused_by_the_protocol_are_ignored(self, tmp_path: Path) -> None:
        unused = {"sasl_username": "u", "sasl_password": "p", "ssl_ca_file": tmp_path / "nothing.pem"}
        assert security(**unused).client_settings() == {"security_protocol": "PLAINTEXT"}

    def test_repr_hides_the_password(self) -> None:
        login = {"sasl_username": "u", "sasl_password": "secret-password"}
        assert "secret-password" not in repr(security(security_protocol="SASL_PLAINTEXT", **login))

    def test_tls_trusts_only_the_configured_authority_and_checks_names(self, certificates: Certificates) -> None:
        context = security(security_protocol="SSL", ssl_ca_file=certificates.authority).tls
        assert context is not None
        assert context.check_hostname
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert len(context.get_ca_certs()) == 1

    def test_name_check_can_be_disabled_but_certificates_are_checked(self, certificates: Certificates) -> None:
        context = security(security_protocol="SSL", ssl_ca_file=certificates.authority, ssl_check_hostname=False).tls
        assert context is not None
        assert not context.check_hostname
        assert context.verify_mode is ssl.CERT_REQUIRED

    def test_client_certificate_with_an_encrypted_key(self, certificates: Certificates) -> None:
        settings = security(
            security_protocol="SSL",
            ssl_cert_file=certificates.service,
            ssl_key_file=certificates.service_key,
            ssl_key_password=KEY_PASSWORD,
        ).client_settings()
        assert set(settings) == {"security_protocol", "ssl_context"}

    def test_client_certificate_with_its_key_in_the_same_file(self, certificates: Certificates) -> None:
        assert security(security_protocol="SSL", ssl_cert_file=certificates.strangers_service).tls is not None


class TestUnusableFiles:
    def test_missing_file(self, tmp_path: Path, certificates: Certificates) -> None:
        missing = tmp_path / "missing.pem"
        for variable, settings in {
            "KAFKA_SSL_CA_FILE": {"ssl_ca_file": missing},
            "KAFKA_SSL_CERT_FILE": {"ssl_cert_file": missing},
            "KAFKA_SSL_KEY_FILE": {"ssl_cert_file": certificates.service, "ssl_key_file": missing},
        }.items():
            with raises_config_error(variable) as message:
                security(security_protocol="SSL", **settings)
            assert f"{missing} cannot be read" in message[0]

    def test_folder(self, tmp_path: Path) -> None:
        with raises_config_error("KAFKA_SSL_CA_FILE"):
            security(security_protocol="SSL", ssl_ca_file=tmp_path)

    @pytest.mark.parametrize("variable", ["KAFKA_SSL_CA_FILE", "KAFKA_SSL_CERT_FILE"])
    def test_file_without_a_certificate(self, variable: str, tmp_path: Path) -> None:
        text_file = tmp_path / "text.txt"
        text_file.write_text("not a certificate")
        field = variable.removeprefix("KAFKA_").lower()
        with raises_config_error(variable):
            security(security_protocol="SSL", **{field: text_file})

    @pytest.mark.parametrize("password", [None, "wrong"])
    def test_key_that_cannot_be_decrypted(self, password: str | None, certificates: Certificates) -> None:
        with raises_config_error("KAFKA_SSL_KEY_PASSWORD"):
            security(
                security_protocol="SSL",
                ssl_cert_file=certificates.service,
                ssl_key_file=certificates.service_key,
                ssl_key_password=password,
            )

    def test_key_of_another_certificate(self, certificates: Certificates) -> None:
        with raises_config_error("KAFKA_SSL_CERT_FILE"):
            security(
                security_protocol="SSL",
                ssl_cert_file=certificates.service,
                ssl_key_file=certificates.strangers_service,
            )

    def test_key_without_certificate(self, certificates: Certificates) -> None:
        with raises_config_error("KAFKA_SSL_KEY_FILE"):
            security(security_protocol="SSL", ssl_key_file=certificates.service_key)


@contextmanager
def raises_config_error(variable: str) -> Iterator[list[str]]:
    """Expect a ConfigError that names ``variable``; the list contains its message after the block."""
    message: list[str] = []
    with pytest.raises(ConfigError, match=variable) as raised:
        yield message
    message.append(str(raised.value))
    assert KEY_PASSWORD not in message[0]


def handshake_failed(cause: ssl.SSLError) -> kafka_errors.KafkaConnectionError:
    """Return the exception in which kafka-python wraps ``cause``."""
    try:
        try:
            raise cause
        except ssl.SSLError as error:
            raise kafka_errors.KafkaConnectionError(f"Handshake failed: {error}")  # noqa: B904  as it does
    except kafka_errors.KafkaConnectionError as error:
        return error


def alert(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] alert from the peer")
    error.reason = reason
    return error


class TestRefusals:
    @pytest.mark.parametrize(
        "error",
        [
            kafka_errors.SaslAuthenticationFailedError("Authentication failed"),
            kafka_errors.UnsupportedSaslMechanismError(),
            kafka_errors.TopicAuthorizationFailedError("uvr_tasks"),
            kafka_errors.GroupAuthorizationFailedError(),
            handshake_failed(alert("TLSV1_ALERT_PROTOCOL_VERSION")),
            handshake_failed(alert("TLSV1_ALERT_UNKNOWN_CA")),
            kafka_errors.KafkaConnectionError(alert("TLSV13_ALERT_CERTIFICATE_REQUIRED")),
        ],
        ids=repr,
    )
    def test_permanent_refusal(self, error: Exception) -> None:
        refusal = translate_kafka_error(error)
        assert isinstance(refusal, RefusedError)
        assert refusal.code is ErrorCode.BROKER_REFUSED

    @pytest.mark.parametrize(
        "error",
        [
            ConnectionResetError(),
            kafka_errors.KafkaConnectionError("socket disconnected"),
            kafka_errors.KafkaTimeoutError(),
            BrokerDisconnectedError(),
            handshake_failed(ssl.SSLEOFError(8, "EOF occurred in violation of protocol")),
            handshake_failed(ssl.SSLZeroReturnError(6, "closed")),
            handshake_failed(alert("TLSV1_ALERT_INTERNAL_ERROR")),
            kafka_errors.KafkaConnectionError(ConnectionResetError()),
        ],
        ids=repr,
    )
    def test_outage(self, error: Exception) -> None:
        outage = translate_kafka_error(error)
        assert isinstance(outage, InfrastructureError)
        assert not isinstance(outage, RefusedError)
        assert outage.code is ErrorCode.BROKER_UNAVAILABLE
