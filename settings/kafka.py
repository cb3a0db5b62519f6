"""Settings of the message broker: topics, consumer groups, timeouts, replication and security."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from settings.types import ADVANCED, Choice, Count, Milliseconds, Seconds, Secret, Section

#: An address of a broker: a host name, an IPv4 address or an IPv6 address in brackets, and a port.
_ADDRESS = re.compile(r"(?:[^\s:/@\[\]]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")


class SecurityProtocol(Choice):
    """Protocol of the connection to the broker, by Kafka's names."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"


class SaslMechanism(Choice):
    """Authentication mechanism, by Kafka's names."""

    PLAIN = "PLAIN"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    SCRAM_SHA_512 = "SCRAM-SHA-512"


class KafkaSettings(Section):
    """The broker that carries jobs, results and events."""

    title = "Message broker"

    bootstrap_servers: str | None = Field(
        None,
        alias="KAFKA_BOOTSTRAP_SERVERS",
        description="Addresses of the Kafka brokers, host:port[,host:port…]. Unset: the embedded transport, which "
        "needs no server and works on one machine.",
    )
    task_topic: str = Field(
        "uvr_tasks",
        alias="KAFKA_TASK_TOPIC",
        description="Topic of jobs for the processors.",
        json_schema_extra=ADVANCED,
    )
    result_topic: str = Field(
        "uvr_results",
        alias="KAFKA_RESULT_TOPIC",
        description="Topic of results for the uploaders.",
        json_schema_extra=ADVANCED,
    )
    event_topic: str = Field(
        "uvr_events", alias="KAFKA_EVENT_TOPIC", description="Topic of progress events.", json_schema_extra=ADVANCED
    )
    retry_topic_prefix: str = Field(
        "uvr_retry_",
        alias="KAFKA_RETRY_TOPIC_PREFIX",
        description="First part of the names of retry topics. The delay follows it, as in uvr_retry_10s.",
        json_schema_extra=ADVANCED,
    )
    dead_letter_topic: str = Field(
        "uvr_dead_letters",
        alias="KAFKA_DEAD_LETTER_TOPIC",
        description="Topic of messages that could not be processed.",
        json_schema_extra=ADVANCED,
    )
    processor_group: str = Field(
        "uvr_processors",
        alias="KAFKA_PROCESSOR_GROUP_ID",
        description="Consumer group of the processors.",
        json_schema_extra=ADVANCED,
    )
    uploader_group: str = Field(
        "uvr_uploaders",
        alias="KAFKA_UPLOADER_GROUP_ID",
        description="Consumer group of the uploaders.",
        json_schema_extra=ADVANCED,
    )
    max_poll_interval_ms: Milliseconds | None = Field(
        None,
        alias="KAFKA_MAX_POLL_INTERVAL_MS",
        description="Longest time between two polls before a hung client loses its jobs (milliseconds, at least "
        "1000). Unset: 600000 for the processor, 300000 for the uploader. A job may take longer than this.",
        json_schema_extra=ADVANCED,
    )
    session_timeout_ms: Milliseconds = Field(
        30_000,
        alias="KAFKA_SESSION_TIMEOUT_MS",
        description="Longest time without a heartbeat before the broker gives a client's partitions to another "
        "(milliseconds, at least 1000).",
        json_schema_extra=ADVANCED,
    )
    partitions: Count = Field(
        12,
        alias="KAFKA_PARTITIONS",
        description="Number of partitions of topics that the service creates. It limits the number of processors that "
        "can share the load.",
    )
    replication_factor: Count = Field(
        1,
        alias="KAFKA_REPLICATION_FACTOR",
        description="Number of replicas of topics that the service creates. Use 3 on a cluster.",
    )
    min_insync_replicas: Count | None = Field(
        None,
        alias="KAFKA_MIN_INSYNC_REPLICAS",
        description="Number of replicas that must have a message before it counts as stored. Unset: all but one, at "
        "least 1.",
        json_schema_extra=ADVANCED,
    )
    publish_timeout: Seconds = Field(
        30.0,
        alias="KAFKA_PUBLISH_TIMEOUT",
        description="Longest wait of a worker for the broker to store a message (seconds).",
        json_schema_extra=ADVANCED,
    )
    security_protocol: SecurityProtocol = Field(
        SecurityProtocol.PLAINTEXT,
        alias="KAFKA_SECURITY_PROTOCOL",
        description="Protocol of the connection to the broker: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.",
    )
    sasl_mechanism: SaslMechanism = Field(
        SaslMechanism.SCRAM_SHA_512,
        alias="KAFKA_SASL_MECHANISM",
        description="Authentication mechanism of SASL_PLAINTEXT and SASL_SSL: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.",
    )
    sasl_username: str | None = Field(
        None,
        alias="KAFKA_SASL_USERNAME",
        description="User name at the broker. Required with SASL_PLAINTEXT and SASL_SSL.",
    )
    sasl_password: Secret | None = Field(
        None,
        alias="KAFKA_SASL_PASSWORD",
        description="Password at the broker. Required with SASL_PLAINTEXT and SASL_SSL.",
    )
    ssl_ca_file: Path | None = Field(
        None,
        alias="KAFKA_SSL_CA_FILE",
        description="PEM file with the authority that signed the broker's certificate. Unset: the authorities that "
        "the system trusts.",
    )
    ssl_cert_file: Path | None = Field(
        None,
        alias="KAFKA_SSL_CERT_FILE",
        description="PEM file with the certificate of this client, for brokers that require one.",
        json_schema_extra=ADVANCED,
    )
    ssl_key_file: Path | None = Field(
        None,
        alias="KAFKA_SSL_KEY_FILE",
        description="PEM file with the key of that certificate. Unset: the key is in KAFKA_SSL_CERT_FILE.",
        json_schema_extra=ADVANCED,
    )
    ssl_key_password: Secret | None = Field(
        None,
        alias="KAFKA_SSL_KEY_PASSWORD",
        description="Password of that key, if it is encrypted.",
        json_schema_extra=ADVANCED,
    )
    ssl_check_hostname: bool = Field(
        True,
        alias="KAFKA_SSL_CHECK_HOSTNAME",
        description="false: accept a valid certificate that names another host.",
        json_schema_extra=ADVANCED,
    )

    @property
    def uses_sasl(self) -> bool:
        """Return True if the client authenticates with a user name and a password."""
        return self.security_protocol in (SecurityProtocol.SASL_PLAINTEXT, SecurityProtocol.SASL_SSL)

    @property
    def uses_tls(self) -> bool:
        """Return True if the connection to the broker is encrypted."""
        return self.security_protocol in (SecurityProtocol.SSL, SecurityProtocol.SASL_SSL)

    @field_validator("bootstrap_servers")
    @classmethod
    def _require_ports(cls, servers: str | None) -> str | None:
        for server in servers.split(",") if servers is not None else ():
            address = _ADDRESS.fullmatch(server.strip())
            if address is None or not 1 <= int(address[1]) <= 65535:
                raise ValueError(
                    "must be host:port, or several of them with commas between them, such as kafka-1:9092; a port is "
                    "a number from 1 to 65535"
                )
        return servers

    @model_validator(mode="after")
    def _require_enough_replicas(self) -> Self:
        if (self.min_insync_replicas or 1) > self.replication_factor:
            raise ValueError(
                "KAFKA_MIN_INSYNC_REPLICAS must not be larger than KAFKA_REPLICATION_FACTOR: nothing could be stored"
            )
        return self

    @model_validator(mode="after")
    def _require_sasl_credentials(self) -> Self:
        if self.uses_sasl and not (self.sasl_username and self.sasl_password):
            raise ValueError(
                "KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD must be set when KAFKA_SECURITY_PROTOCOL is "
                f"{self.security_protocol}"
            )
        return self
