"""What a broker asks of its clients: TLS, client certificates, user names and passwords."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kafka import KafkaAdminClient
from kafka.admin import ScramMechanism, UserScramCredentialUpsertion

from devstack.errors import ServerStartError

Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]

_MODULES = {
    "PLAIN": "org.apache.kafka.common.security.plain.PlainLoginModule",
    "SCRAM-SHA-256": "org.apache.kafka.common.security.scram.ScramLoginModule",
    "SCRAM-SHA-512": "org.apache.kafka.common.security.scram.ScramLoginModule",
}
_LISTENER = "listener.name.client"


@dataclass(frozen=True)
class Tls:
    """How the broker proves who it is, and whom it believes."""

    key_and_chain: Path
    """PEM: its private key, in PKCS #8, and its certificate with the chain up to the authority."""
    client_authority: Path | None = None
    """PEM: whoever connects must show a certificate of this authority. None: nobody is asked for one."""


@dataclass(frozen=True)
class Access:
    """How clients get in. Neither: in plain text, whoever comes."""

    tls: Tls | None = None
    mechanisms: Sequence[Mechanism] = ()
    users: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Passwords by user name, for each of `mechanisms`."""

    @property
    def protocol(self) -> str:
        """Kafka's name for it, as a client's `security.protocol` says it."""
        if not self.mechanisms:
            return "PLAINTEXT" if self.tls is None else "SSL"
        return "SASL_PLAINTEXT" if self.tls is None else "SASL_SSL"

    def properties(self) -> dict[str, object]:
        """The broker's settings for its listener `CLIENT`."""
        return self._tls_properties() | self._sasl_properties()

    def store_passwords(self, admin: KafkaAdminClient) -> None:
        """Tell a running broker the passwords for SCRAM, which it keeps in its log. Raises ServerStartError."""
        taken = admin.alter_user_scram_credentials(
            [
                UserScramCredentialUpsertion(user, ScramMechanism[mechanism.replace("-", "_")], password)
                for mechanism in self.stored_mechanisms
                for user, password in self.users.items()
            ]
        )
        for user, reason in taken.items():
            if reason is not None:
                raise ServerStartError(f"Kafka does not take the password of {user}: {reason}")

    @property
    def stored_mechanisms(self) -> Sequence[Mechanism]:
        """Those whose passwords the broker keeps in its log, not in its settings."""
        return [mechanism for mechanism in self.mechanisms if mechanism != "PLAIN"]

    def _tls_properties(self) -> dict[str, object]:
        if self.tls is None:
            return {}
        properties: dict[str, object] = {
            f"{_LISTENER}.ssl.keystore.type": "PEM",
            f"{_LISTENER}.ssl.keystore.location": self.tls.key_and_chain.absolute(),
        }
        if self.tls.client_authority is not None:
            properties |= {
                f"{_LISTENER}.ssl.client.auth": "required",
                f"{_LISTENER}.ssl.truststore.type": "PEM",
                f"{_LISTENER}.ssl.truststore.location": self.tls.client_authority.absolute(),
            }
        return properties

    def _sasl_properties(self) -> dict[str, object]:
        if not self.mechanisms:
            return {}
        logins = {
            f"{_LISTENER}.{mechanism.lower()}.sasl.jaas.config": " ".join(self._login(mechanism)) + ";"
            for mechanism in self.mechanisms
        }
        return {f"{_LISTENER}.sasl.enabled.mechanisms": ",".join(self.mechanisms), **logins}

    def _login(self, mechanism: Mechanism) -> Iterator[str]:
        yield from (_MODULES[mechanism], "required")
        if mechanism == "PLAIN":
            yield from (f'user_{user}="{password}"' for user, password in self.users.items())
