"""Configure the access to a broker: TLS, client certificates, passwords, access control lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
_AUTHORIZER = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"


@dataclass(frozen=True)
class Tls:
    """The broker's certificate, and the authority of its clients' certificates."""

    key_and_chain: Path
    """PEM file with the private key (PKCS #8) and the certificate with its chain up to the authority."""
    client_authority: Path | None = None
    """PEM file with the authority that must have signed the client's certificate. None: clients need no certificate."""


@dataclass(frozen=True)
class Access:
    """Encryption and authentication of clients. Neither is required by default."""

    tls: Tls | None = None
    mechanisms: Sequence[Mechanism] = ()
    users: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Passwords by user name, for each of `mechanisms`."""
    has_acls: bool = False
    """True if a client may do only what an access control list allows. The package's own clients may do everything."""

    @property
    def protocol(self) -> str:
        """The value of `security.protocol` for clients."""
        if not self.mechanisms:
            return "PLAINTEXT" if self.tls is None else "SSL"
        return "SASL_PLAINTEXT" if self.tls is None else "SASL_SSL"

    def properties(self) -> dict[str, object]:
        """Return the broker's properties: those of its listener `CLIENT`, and of its authorizer."""
        properties: dict[str, object] = {}
        if self.has_acls:
            # Clients of the broker's own listeners have no login.
            properties |= {"authorizer.class.name": _AUTHORIZER, "super.users": "User:ANONYMOUS"}
        if self.tls is not None:
            properties |= {
                f"{_LISTENER}.ssl.keystore.type": "PEM",
                f"{_LISTENER}.ssl.keystore.location": self.tls.key_and_chain.absolute(),
            }
            if self.tls.client_authority is not None:
                properties |= {
                    f"{_LISTENER}.ssl.client.auth": "required",
                    f"{_LISTENER}.ssl.truststore.type": "PEM",
                    f"{_LISTENER}.ssl.truststore.location": self.tls.client_authority.absolute(),
                }
        if self.mechanisms:
            properties[f"{_LISTENER}.sasl.enabled.mechanisms"] = ",".join(self.mechanisms)
        for mechanism in self.mechanisms:
            properties[f"{_LISTENER}.{mechanism.lower()}.sasl.jaas.config"] = self._jaas_config(mechanism)
        return properties

    def store_passwords(self, admin: KafkaAdminClient) -> None:
        """Store the SCRAM passwords in a running broker, which keeps them in its log. Raises ServerStartError."""
        results = admin.alter_user_scram_credentials(
            [
                UserScramCredentialUpsertion(user, ScramMechanism[mechanism.replace("-", "_")], password)
                for mechanism in self.stored_mechanisms
                for user, password in self.users.items()
            ]
        )
        for user, reason in results.items():
            if reason is not None:
                raise ServerStartError(f"Kafka rejected the password of {user}: {reason}")

    @property
    def stored_mechanisms(self) -> Sequence[Mechanism]:
        """The mechanisms whose passwords the broker keeps in its log, not in its properties."""
        return [mechanism for mechanism in self.mechanisms if mechanism != "PLAIN"]

    def _jaas_config(self, mechanism: Mechanism) -> str:
        passwords = self.users.items() if mechanism == "PLAIN" else ()
        words = [_MODULES[mechanism], "required", *(f'user_{user}="{password}"' for user, password in passwords)]
        return " ".join(words) + ";"
