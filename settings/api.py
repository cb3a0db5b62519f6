"""Settings of the API."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from settings.types import (
    ADVANCED,
    KIB,
    REQUIRED,
    Bytes,
    ConfigError,
    Count,
    Host,
    Networks,
    Port,
    Seconds,
    Secret,
    Section,
)

#: Shortest password, characters. Guesses are throttled, and NIST SP 800-63B asks for as many beside that.
SHORTEST_PASSWORD: Final = 8


def _user_name(value: str) -> str:
    if ":" in value:
        raise ValueError("must not contain a colon, which ends the user name in HTTP basic authentication")
    return value


class ApiSettings(Section):
    """The API's address, credentials and limits."""

    title = "API"

    host: Host = Field("127.0.0.1", alias="API_HOST", description="Address that the API listens on.")
    port: Port = Field(8000, alias="API_PORT", description="Port that the API listens on.")
    username: Annotated[str, AfterValidator(_user_name)] | None = Field(
        None,
        alias="BASIC_AUTH_USERNAME",
        description="User name of the API's clients (HTTP basic authentication). It must not contain a colon. "
        "The API does not start without it.",
        json_schema_extra=REQUIRED,
    )
    password: Secret | None = Field(
        None,
        alias="BASIC_AUTH_PASSWORD",
        description=f"Password of the API's clients, at least {SHORTEST_PASSWORD} characters. The API does not start "
        "without it.",
        json_schema_extra=REQUIRED,
    )
    max_request_bytes: Bytes = Field(
        64 * KIB,
        alias="MAX_REQUEST_BYTES",
        description="Largest body of a request (bytes). A larger one is answered with status 413.",
        json_schema_extra=ADVANCED,
    )
    accept_timeout: Seconds = Field(
        1.5,
        alias="ACCEPT_TIMEOUT",
        description="Longest wait for the broker to store a job before the request is answered with status 503 "
        "(seconds).",
        json_schema_extra=ADVANCED,
    )
    client_burst: Count = Field(
        10,
        alias="CLIENT_BURST",
        description="Number of jobs that one client may queue at once at normal priority. Further jobs wait in the "
        "bulk queue.",
    )
    client_refill: Seconds = Field(
        30.0,
        alias="CLIENT_REFILL",
        description="Time after which a client may queue one more job at normal priority (seconds).",
    )

    operations_host: Host = Field(
        "127.0.0.1",
        alias="OPERATIONS_HOST",
        description="Address of the operators' port.",
    )
    operations_port: Port | None = Field(
        None,
        alias="OPERATIONS_PORT",
        description="Port for operators, with /metrics, /docs, /health and /ready. If it is set, API_PORT serves "
        "/metrics and /docs no more. 0: any free port. Unset: API_PORT serves everything.",
    )
    trusted_proxies: Networks = Field(
        (),
        alias="TRUSTED_PROXIES",
        description="Addresses or networks of the reverse proxies in front of the API, separated by commas. Their "
        "X-Forwarded-For names the client, for the limits and the log. Unset: the header is ignored.",
    )
    max_connections: Count = Field(
        4000,
        alias="API_MAX_CONNECTIONS",
        description="Largest number of open connections of clients. At the limit, those that have waited longest for "
        "their client are closed. A low limit of open files (ulimit -n) lowers it.",
        json_schema_extra=ADVANCED,
    )
    max_connections_per_address: Count = Field(
        2000,
        alias="API_MAX_CONNECTIONS_PER_ADDRESS",
        description="Largest number of open connections of one IPv4 address or one IPv6 network (/64), except "
        "TRUSTED_PROXIES; at most half of all connections.",
        json_schema_extra=ADVANCED,
    )
    request_timeout: Seconds = Field(
        10.0,
        alias="API_REQUEST_TIMEOUT",
        description="Longest time in which a client sends the header of a request, and again its body (seconds). "
        "Later ones are answered with status 408.",
        json_schema_extra=ADVANCED,
    )
    write_timeout: Seconds = Field(
        60.0,
        alias="API_WRITE_TIMEOUT",
        description="Longest time in which a client reads the next 48 KiB of an answer, such as a stem (seconds).",
        json_schema_extra=ADVANCED,
    )

    def require_credentials(self) -> tuple[str, str]:
        """Return the user name and the password. Raises ConfigError unless both are set and not empty."""
        password = self.password.get_secret_value() if self.password else ""
        missing = [
            name
            for name, value in (("BASIC_AUTH_USERNAME", self.username), ("BASIC_AUTH_PASSWORD", password))
            if not value
        ]
        if missing:
            raise ConfigError(f"{' and '.join(missing)} must be set: the API does not start without credentials.")
        if len(password) < SHORTEST_PASSWORD:
            raise ConfigError(
                f"BASIC_AUTH_PASSWORD is too short: set one with at least {SHORTEST_PASSWORD} characters, such as the "
                "output of: openssl rand -hex 16"
            )
        return self.username or "", password

    def require_no_private_networks_on_a_public_address(self, allow_private_networks: bool) -> None:
        """Raise ConfigError if other machines reach the API and its URLs may lead into private networks.

        Every client could then read the network behind the service.
        """
        if allow_private_networks and not is_loopback(self.host):
            raise ConfigError(
                f"ALLOW_PRIVATE_NETWORKS must not be set while API_HOST={self.host} is open to other machines: set "
                "API_HOST=127.0.0.1, or name the networks that are needed in URL_ALLOW_NETWORKS instead"
            )


def is_loopback(host: str) -> bool:
    """Return whether only programs on this machine reach a server that listens on ``host``."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
