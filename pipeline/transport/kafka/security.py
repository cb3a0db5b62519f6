"""Authentication and TLS of the Kafka clients, built from the settings."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import ConfigError

if TYPE_CHECKING:
    from config import KafkaSettings


@dataclass(frozen=True, slots=True)
class KafkaSecurity:
    """The security options of a client. The default is plain text without authentication."""

    protocol: str = "PLAINTEXT"
    """Kafka's name of the protocol: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."""
    mechanism: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None

    @classmethod
    def from_settings(cls, kafka: KafkaSettings) -> KafkaSecurity:
        """Raise ConfigError, with the variable's name, for a certificate or key file that cannot be used."""
        password = kafka.sasl_password.get_secret_value() if kafka.sasl_password else None
        return cls(
            protocol=kafka.security_protocol.value,
            mechanism=kafka.sasl_mechanism.value if kafka.uses_sasl else None,
            username=kafka.sasl_username if kafka.uses_sasl else None,
            password=password if kafka.uses_sasl else None,
            tls=_tls_context(kafka) if kafka.uses_tls else None,
        )

    def client_settings(self) -> dict[str, Any]:
        """Return the settings for every client of kafka-python."""
        settings: dict[str, Any] = {"security_protocol": self.protocol}
        if self.mechanism is not None:
            settings |= {
                "sasl_mechanism": self.mechanism,
                "sasl_plain_username": self.username,
                "sasl_plain_password": self.password,
            }
        if self.tls is not None:
            settings["ssl_context"] = self.tls
        return settings


def _tls_context(kafka: KafkaSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = kafka.ssl_check_hostname
    if kafka.ssl_ca_file is None:
        context.load_default_certs()
    else:
        _require_readable("KAFKA_SSL_CA_FILE", kafka.ssl_ca_file)
        with _config_errors("KAFKA_SSL_CA_FILE", "the file must contain PEM certificates"):
            context.load_verify_locations(kafka.ssl_ca_file)
    if kafka.ssl_key_file is not None and kafka.ssl_cert_file is None:
        raise ConfigError("KAFKA_SSL_KEY_FILE is set without KAFKA_SSL_CERT_FILE: a key requires its certificate")
    if kafka.ssl_cert_file is not None:
        _require_readable("KAFKA_SSL_CERT_FILE", kafka.ssl_cert_file)
        if kafka.ssl_key_file is not None:
            _require_readable("KAFKA_SSL_KEY_FILE", kafka.ssl_key_file)
        # Without any password OpenSSL would prompt for the password of an encrypted key on the terminal.
        password = kafka.ssl_key_password.get_secret_value() if kafka.ssl_key_password else ""
        with _config_errors(
            "KAFKA_SSL_CERT_FILE",
            "the file must contain a PEM certificate, with its key in the same file or in KAFKA_SSL_KEY_FILE, and "
            "KAFKA_SSL_KEY_PASSWORD must decrypt the key",
        ):
            context.load_cert_chain(kafka.ssl_cert_file, kafka.ssl_key_file, password)
    return context


def _require_readable(variable: str, path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigError(f"{variable}={path} cannot be read ({error.strerror})") from None


@contextmanager
def _config_errors(variable: str, requirement: str) -> Iterator[None]:
    """Translate errors of the block to a ConfigError that states the requirement."""
    try:
        yield
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or type(error).__name__
        raise ConfigError(f"{variable} cannot be used ({reason}): {requirement}") from None
