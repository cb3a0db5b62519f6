"""Settings of the API."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr, StringConstraints

from settings.types import ADVANCED, KIB, REQUIRED, Bytes, ConfigError, Count, Port, Seconds, Section


class ApiSettings(Section):
    """The API's address, credentials and limits."""

    title = "API"

    host: str = Field("127.0.0.1", alias="API_HOST", description="Address that the API listens on.")
    port: Port = Field(8000, alias="API_PORT", description="Port that the API listens on.")
    username: Annotated[str, StringConstraints(pattern="^[^:]*$")] | None = Field(
        None,
        alias="BASIC_AUTH_USERNAME",
        description="User name of the API's clients (HTTP basic authentication). It must not contain a colon. "
        "The API does not start without it.",
        json_schema_extra=REQUIRED,
    )
    password: SecretStr | None = Field(
        None,
        alias="BASIC_AUTH_PASSWORD",
        description="Password of the API's clients. The API does not start without it.",
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
        return self.username or "", password
