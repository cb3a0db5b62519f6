"""Settings of every service, read once from the environment and ``.env``, typed, one class per concern.

Importing this module reads and creates nothing: ``load()`` does the reading, at the start of a process.
``python -m config`` prints ``.env.example``.
"""

from __future__ import annotations

import base64
import binascii
import re
import sys
from collections.abc import Iterator
from enum import StrEnum
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, cast
from urllib.parse import urlsplit

import idna
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    HttpUrl,
    SecretStr,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

KIB, MIB, GIB = 1024, 1024**2, 1024**3


def _http_url(value: str) -> str:
    """Check an operator's URL and keep its spelling, less a trailing slash."""
    TypeAdapter(HttpUrl).validate_python(value)
    return value.rstrip("/")


def _with_scheme(value: object) -> object:
    """Take a bare domain for https, as earlier services of this kind did."""
    bare = isinstance(value, str) and re.fullmatch(r"[\w.-]+(:\d+)?(/[\w./-]*)?", value)
    return f"https://{value}" if bare else value


def _split(value: object) -> object:
    """Take ``10, 60, 600`` for a list."""
    return tuple(part for part in re.split(r"[,\s]+", value) if part) if isinstance(value, str) else value


def _device(value: str) -> str:
    """``auto``, ``cpu``, a GPU's number, or the UUID of one or of a part of one, which may be abbreviated."""
    if value.lower() in ("auto", "cpu"):
        return value.lower()
    if not re.fullmatch(r"\d{1,3}|(GPU|MIG)-[0-9A-Za-z/-]+", value):
        raise ValueError("must be auto, cpu, or GPUs by number or UUID as nvidia-smi -L lists them, such as 0,1,3")
    return value


def _auto_alone(values: tuple[str, ...]) -> tuple[str, ...]:
    if "auto" in values and len(values) > 1:
        raise ValueError("auto stands for all devices there are: name it alone, or name the devices")
    return values


def _growing(values: tuple[float, ...]) -> tuple[float, ...]:
    if not values or list(values) != sorted(set(values)):
        raise ValueError("must be one or more delays in s, each longer than the one before, such as 10,60,600")
    return values


def _host(value: str) -> str:
    """A name in lower-case ASCII; ``.example.org``, or ``*.example.org``, stands for every name under it."""
    name = value.removeprefix("*").lower().removesuffix(".")
    dot = "." if name.startswith(".") else ""
    try:
        ascii_name = name[len(dot) :] if name.isascii() else idna.encode(name[len(dot) :]).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        ascii_name = ""
    if not re.fullmatch(r"[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?", ascii_name) or ".." in ascii_name:
        raise ValueError("must be host names, such as music.example.org, or .example.org for every name under it")
    return dot + ascii_name


def _network(value: str) -> str:
    """An address or a network, in its one spelling."""
    try:
        return str(ip_network(value))
    except ValueError:
        raise ValueError("must be networks, such as 10.1.0.0/16 or fd12:3456::/32, or single addresses") from None


def _pin(value: str) -> str:
    """The SHA-256 of a certificate as openssl prints it, or without colons; ``host=`` before it."""
    host, separator, digest = value.rpartition("=")
    digest = digest.replace(":", "").lower()
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError("must be the SHA-256 of certificates: 64 hexadecimal digits each, host= before them or not")
    return (_host(host) + separator if separator else "") + digest


def _proxy(value: SecretStr) -> SecretStr:
    """Check a proxy's URL without ever showing it: it may contain a password."""
    wrong = ValueError("must be http://, https:// or socks5h:// with a host, and user:password@ before it if need be")
    try:
        parts = urlsplit(value.get_secret_value())
        complete = parts.hostname and parts.port != 0
    except ValueError:
        raise wrong from None
    if parts.scheme not in _PROXIES or not complete or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise wrong
    return value


_PROXIES = ("http", "https", "socks5", "socks5h")

BaseUrl = Annotated[str, AfterValidator(_http_url)]
Seconds = Annotated[float, Field(gt=0)]
Delays = Annotated[tuple[Seconds, ...], NoDecode, BeforeValidator(_split), AfterValidator(_growing)]
Count = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=0, le=65535)]
Hosts = Annotated[tuple[Annotated[str, AfterValidator(_host)], ...], NoDecode, BeforeValidator(_split)]
Networks = Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], NoDecode, BeforeValidator(_split)]
Ports = Annotated[tuple[Annotated[int, Field(ge=1, le=65535)], ...], NoDecode, BeforeValidator(_split)]
Pins = Annotated[tuple[Annotated[str, AfterValidator(_pin)], ...], NoDecode, BeforeValidator(_split)]
Devices = Annotated[
    tuple[Annotated[str, AfterValidator(_device)], ...],
    NoDecode,
    BeforeValidator(_split),
    AfterValidator(_auto_alone),
]
Urls = Annotated[tuple[BaseUrl, ...], NoDecode, BeforeValidator(_split)]


class Engine(StrEnum):
    """Where objects are kept."""

    LOCAL = "local"
    S3 = "s3"


class SecurityProtocol(StrEnum):
    """How the connection to the broker is protected; the names are Kafka's."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"


class SaslMechanism(StrEnum):
    """How this service proves to the broker who it is; the names are Kafka's."""

    PLAIN = "PLAIN"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    SCRAM_SHA_512 = "SCRAM-SHA-512"


class LogFormat(StrEnum):
    """``json`` for machines, ``console`` for people; one event per line either way."""

    JSON = "json"
    CONSOLE = "console"


class Precision(StrEnum):
    """In which networks calculate on a GPU."""

    AUTO = "auto"
    FP32 = "fp32"
    TF32 = "tf32"
    FP16 = "fp16"
    BF16 = "bf16"


class Compile(StrEnum):
    """What is made of torch's networks before they are run."""

    NONE = "none"
    INDUCTOR = "inductor"
    GRAPHS = "graphs"


class Section(BaseSettings):
    """Base of the settings classes: environment first, then ``.env``; an empty value means the default."""

    title: ClassVar[str]
    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        dotenv_filtering="only_existing",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Names of fields are for our own code: a stray ``PORT`` or ``PASSWORD`` in the environment is no setting."""
        for source in (env_settings, dotenv_settings):
            source.config = SettingsConfigDict(**{**source.config, "populate_by_name": False})
        return init_settings, env_settings, dotenv_settings


class ApiSettings(Section):
    title = "The front door"

    host: str = Field("127.0.0.1", alias="API_HOST", description="Address to listen on.")
    port: Port = Field(8000, alias="API_PORT", description="Port to listen on.")
    username: Annotated[str, StringConstraints(pattern="^[^:]*$")] | None = Field(
        None, alias="BASIC_AUTH_USERNAME", description="Required by the API; there is no default."
    )
    password: SecretStr | None = Field(
        None, alias="BASIC_AUTH_PASSWORD", description="Required by the API; there is no default."
    )
    max_request_bytes: Count = Field(
        64 * KIB, alias="MAX_REQUEST_BYTES", description="Largest body of a request, bytes."
    )
    accept_timeout: Seconds = Field(
        1.5,
        alias="ACCEPT_TIMEOUT",
        description="Longest wait for the broker before a request is answered 503, s.",
    )
    client_burst: Count = Field(
        10,
        alias="CLIENT_BURST",
        description="Jobs that one client may queue at once; the rest of his wait behind everybody's.",
    )
    client_refill: Seconds = Field(
        30.0, alias="CLIENT_REFILL", description="Time after which a client may queue one job more in front, s."
    )

    def require_credentials(self) -> tuple[str, str]:
        """The user name and the password. Raises ConfigError unless both are set and not empty."""
        password = self.password.get_secret_value() if self.password else ""
        missing = [
            name
            for name, value in (("BASIC_AUTH_USERNAME", self.username), ("BASIC_AUTH_PASSWORD", password))
            if not value
        ]
        if missing:
            raise ConfigError(f"{' and '.join(missing)} must be set: the API does not start without credentials.")
        return self.username or "", password


class KafkaSettings(Section):
    title = "The broker (unset bootstrap servers: the embedded transport, one machine, no server)"

    bootstrap_servers: str | None = Field(
        None, alias="KAFKA_BOOTSTRAP_SERVERS", description="host:port[,host:port…]; unset: embedded."
    )
    task_topic: str = Field("uvr_tasks", alias="KAFKA_TASK_TOPIC", description="Jobs for the processors.")
    result_topic: str = Field("uvr_results", alias="KAFKA_RESULT_TOPIC", description="Results for the uploaders.")
    event_topic: str = Field("uvr_events", alias="KAFKA_EVENT_TOPIC", description="Progress reports.")
    retry_topic_prefix: str = Field(
        "uvr_retry_", alias="KAFKA_RETRY_TOPIC_PREFIX", description="Retry topics are named by this and their delay."
    )
    dead_letter_topic: str = Field(
        "uvr_dead_letters", alias="KAFKA_DEAD_LETTER_TOPIC", description="Messages that nobody can work on."
    )
    processor_group: str = Field(
        "uvr_processors", alias="KAFKA_PROCESSOR_GROUP_ID", description="Consumer group of the processors."
    )
    uploader_group: str = Field(
        "uvr_uploaders", alias="KAFKA_UPLOADER_GROUP_ID", description="Consumer group of the uploaders."
    )
    max_poll_interval_ms: int | None = Field(
        None,
        ge=1000,
        alias="KAFKA_MAX_POLL_INTERVAL_MS",
        description="After this long without a poll a hung client loses its jobs, ms. "
        "Unset: 600000 for the processor, 300000 for the uploader. A job may take longer.",
    )
    session_timeout_ms: int = Field(
        30_000,
        ge=1000,
        alias="KAFKA_SESSION_TIMEOUT_MS",
        description="After this long a dead member is replaced, ms.",
    )
    partitions: Count = Field(
        12,
        alias="KAFKA_PARTITIONS",
        description="Partitions of topics that are created: the most processors that can share the load.",
    )
    replication_factor: Count = Field(
        1,
        alias="KAFKA_REPLICATION_FACTOR",
        description="Replicas of topics that are created; 3 on a cluster.",
    )
    min_insync_replicas: Count | None = Field(
        None,
        alias="KAFKA_MIN_INSYNC_REPLICAS",
        description="Replicas that must have a message before it counts as stored. Unset: all but one, at least 1.",
    )
    publish_timeout: Seconds = Field(
        30.0,
        alias="KAFKA_PUBLISH_TIMEOUT",
        description="Longest wait of a worker for the broker to take a message, s.",
    )
    security_protocol: SecurityProtocol = Field(
        SecurityProtocol.PLAINTEXT,
        alias="KAFKA_SECURITY_PROTOCOL",
        description="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.",
    )
    sasl_mechanism: SaslMechanism = Field(
        SaslMechanism.SCRAM_SHA_512,
        alias="KAFKA_SASL_MECHANISM",
        description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; used with SASL_PLAINTEXT and SASL_SSL.",
    )
    sasl_username: str | None = Field(
        None, alias="KAFKA_SASL_USERNAME", description="Required with SASL_PLAINTEXT and SASL_SSL."
    )
    sasl_password: SecretStr | None = Field(
        None, alias="KAFKA_SASL_PASSWORD", description="Required with SASL_PLAINTEXT and SASL_SSL."
    )
    ssl_ca_file: Path | None = Field(
        None,
        alias="KAFKA_SSL_CA_FILE",
        description="PEM file of the authority that signed the broker's certificate. Unset: the system's.",
    )
    ssl_cert_file: Path | None = Field(
        None, alias="KAFKA_SSL_CERT_FILE", description="PEM file of this service's own certificate, if the broker asks."
    )
    ssl_key_file: Path | None = Field(
        None, alias="KAFKA_SSL_KEY_FILE", description="PEM file of its key. Unset: in KAFKA_SSL_CERT_FILE."
    )
    ssl_key_password: SecretStr | None = Field(
        None, alias="KAFKA_SSL_KEY_PASSWORD", description="Password of that key, if it has one."
    )
    ssl_check_hostname: bool = Field(
        True,
        alias="KAFKA_SSL_CHECK_HOSTNAME",
        description="false: take the certificate of any host that the authority has signed.",
    )

    @property
    def uses_sasl(self) -> bool:
        """Whether this service proves to the broker who it is by a user name and a password."""
        return self.security_protocol in (SecurityProtocol.SASL_PLAINTEXT, SecurityProtocol.SASL_SSL)

    @property
    def uses_tls(self) -> bool:
        """Whether the connection to the broker is encrypted."""
        return self.security_protocol in (SecurityProtocol.SSL, SecurityProtocol.SASL_SSL)

    @model_validator(mode="after")
    def _replicas_enough(self) -> Self:
        if (self.min_insync_replicas or 1) > self.replication_factor:
            raise ValueError(
                "KAFKA_MIN_INSYNC_REPLICAS must not be larger than KAFKA_REPLICATION_FACTOR: nothing could be stored"
            )
        return self

    @model_validator(mode="after")
    def _credentials_where_needed(self) -> Self:
        if self.uses_sasl and not (self.sasl_username and self.sasl_password):
            raise ValueError(
                "KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD must be set when KAFKA_SECURITY_PROTOCOL is "
                f"{self.security_protocol}"
            )
        return self


class StateSettings(Section):
    title = "State on this machine"

    data_dir: Path = Field(Path(".local"), alias="DATA_DIR", description="Embedded transport, local storage, hand-off.")
    temp_dir: Path | None = Field(
        None, alias="TEMP_DIR", description="Working files of running jobs. Unset: DATA_DIR/tmp."
    )
    output_dir: Path | None = Field(
        None, alias="OUTPUT_DIR", description="Finished stems when STORAGE=local. Unset: DATA_DIR/stems."
    )
    lease_seconds: Seconds = Field(
        15.0,
        alias="EMBEDDED_LEASE",
        description="After this long a dead worker's job goes to another (embedded), s.",
    )
    retention_seconds: Seconds = Field(
        7 * 86400.0,
        alias="EMBEDDED_RETENTION",
        description="How long settled messages are kept (embedded), s.",
    )

    @property
    def broker_file(self) -> Path:
        """The embedded transport's database."""
        return self.data_dir / "broker.sqlite"

    @property
    def stems_dir(self) -> Path:
        """Finished stems of the local store."""
        return self.output_dir or self.data_dir / "stems"

    @property
    def handoff_dir(self) -> Path:
        """Stems on their way from processor to uploader."""
        return self.data_dir / "handoff"

    @property
    def work_dir(self) -> Path:
        """Working files of running jobs."""
        return self.temp_dir or self.data_dir / "tmp"

    @property
    def link_key_file(self) -> Path:
        """The key that signs links to local stems, made at first use."""
        return self.data_dir / "link.key"


class StorageSettings(Section):
    title = "Where finished stems go"

    storage: Engine | None = Field(
        None, alias="STORAGE", description="local or s3. Unset: s3 if S3_BUCKET_NAME is set, else local."
    )
    handoff: Engine = Field(
        Engine.LOCAL,
        alias="HANDOFF",
        description="How stems get to the uploader: local (a shared DATA_DIR) or s3 (a prefix of the bucket).",
    )
    s3_endpoint_url: BaseUrl | None = Field(
        None, alias="S3_ENDPOINT_URL", description="Unset: AWS. Set it for any other S3 server."
    )
    s3_bucket: str | None = Field(None, alias="S3_BUCKET_NAME", description="Must exist.")
    s3_public_domain: Annotated[BaseUrl, BeforeValidator(_with_scheme)] | None = Field(
        None,
        alias="S3_PUBLIC_DOMAIN",
        description="Links become S3_PUBLIC_DOMAIN/key. Unset: presigned links.",
    )
    aws_access_key_id: SecretStr | None = Field(
        None,
        alias="AWS_ACCESS_KEY_ID",
        description="Unset: boto3 looks where it always looks (role, profile).",
    )
    aws_secret_access_key: SecretStr | None = Field(None, alias="AWS_SECRET_ACCESS_KEY", description="See above.")
    aws_region: str = Field("us-east-1", alias="AWS_REGION", description="Region of the bucket.")
    result_url_ttl: int = Field(
        86_400,
        ge=60,
        le=604_800,
        alias="RESULT_URL_TTL",
        description="How long presigned links are valid, s (7 days at most).",
    )
    result_base_url: BaseUrl | None = Field(
        None,
        alias="RESULT_BASE_URL",
        description="Address under which clients reach the API, for links to local stems. Unset: API_HOST:API_PORT.",
    )

    @property
    def engine(self) -> Engine:
        """Where finished stems are kept."""
        return self.storage or (Engine.S3 if self.s3_bucket else Engine.LOCAL)

    @model_validator(mode="after")
    def _bucket_where_needed(self) -> Self:
        if Engine.S3 in (self.engine, self.handoff) and not self.s3_bucket:
            raise ValueError("S3_BUCKET_NAME must be set when STORAGE or HANDOFF is s3")
        if (self.aws_access_key_id is None) != (self.aws_secret_access_key is None):
            raise ValueError("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be set together")
        return self


class ModelSettings(Section):
    title = "The model"

    model_name: str = Field(
        "UVR-MDX-NET-Inst_HQ_4.onnx",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._ ()+-]{0,127}$",
        alias="MODEL_NAME",
        description="File name of the model that is loaded at start; fetched into MODEL_FILE_DIR if it is not there.",
    )
    model_dir: Path = Field(
        Path("models"), alias="MODEL_FILE_DIR", description="Model files and their json descriptions."
    )
    pool_bytes: Count | None = Field(
        None,
        alias="MODEL_POOL_BYTES",
        description="What loaded models may take together on each GPU, or in the main memory, bytes, equal parts for "
        "each child there; beyond that, those that were not asked for longest go, MODEL_NAME last. Unset: 60 % of the "
        "GPU's memory or, without a GPU, half of the main memory.",
    )
    require_gpu: bool = Field(
        False, alias="REQUIRE_GPU", description="true: refuse to start when separation would run on the CPU."
    )
    mirrors: Urls = Field(
        (),
        alias="MODEL_MIRRORS",
        description="Folders on other servers that have the model files under their names, https://host/path each, "
        "separated by commas; the models' own places are asked last.",
    )
    offline: bool = Field(
        False, alias="MODEL_OFFLINE", description="true: fetch no model file; those in MODEL_FILE_DIR are all there is."
    )
    key_file: Path | None = Field(
        None, alias="MODEL_KEY_FILE", description="File with the key of encrypted model files. Unset: they are plain."
    )
    key_command: str | None = Field(
        None,
        alias="MODEL_KEY_COMMAND",
        description="Command that prints that key instead, such as a client of a key management service.",
    )
    plain_dir: Path = Field(
        Path("/dev/shm"),
        alias="MODEL_PLAIN_DIR",
        description="Where decrypted model files lie while they are loaded; in memory, not on a disk.",
    )

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.key_file and self.key_command:
            raise ValueError("only one of MODEL_KEY_FILE and MODEL_KEY_COMMAND can be set")
        return self


class DeviceSettings(Section):
    title = "The device"

    precision: Precision = Field(
        Precision.AUTO,
        alias="PRECISION",
        description="In which networks calculate: fp32 (IEEE's), tf32, fp16, bf16, or auto: on a GPU the fastest that "
        "is within 60 dB of fp32, measured when a model is loaded; fp32 elsewhere.",
    )
    compile: Compile = Field(
        Compile.NONE,
        alias="TORCH_COMPILE",
        description="What is made of torch's networks when they are loaded: none, inductor (torch.compile; takes "
        "minutes, and a C++ compiler) or graphs (CUDA graphs; MDX networks only).",
    )
    batch: Annotated[int, Field(ge=1, le=64)] = Field(
        4, alias="GPU_BATCH", description="Segments that a GPU is given at a time; Demucs models choose for themselves."
    )
    tensorrt: bool = Field(
        False,
        alias="TENSORRT",
        description="true: MDX networks are run by TensorRT, which has to be installed. With PRECISION=tf32, fp16 or "
        "bf16; it takes minutes to build an engine.",
    )
    tensorrt_dir: Path = Field(
        Path(".local/tensorrt"),
        alias="TENSORRT_DIR",
        description="Where TensorRT's engines are kept, weights and all; not at all if model files are encrypted.",
    )

    @model_validator(mode="after")
    def _what_tensorrt_can(self) -> Self:
        if self.tensorrt and self.precision in (Precision.AUTO, Precision.FP32):
            raise ValueError("TENSORRT needs PRECISION=tf32, fp16 or bf16: it calculates in no higher one")
        if self.tensorrt and self.compile is not Compile.NONE:
            raise ValueError("TENSORRT and TORCH_COMPILE cannot both be set")
        return self


class DownloadSettings(Section):
    title = "What may be fetched"

    allow_private_networks: bool = Field(
        False,
        alias="ALLOW_PRIVATE_NETWORKS",
        description="true: allow audio and webhooks on loopback and private addresses, and every port.",
    )
    allow_hosts: Hosts = Field(
        (),
        alias="URL_ALLOW_HOSTS",
        description="The only hosts that audio, redirects and webhooks may lead to, separated by commas; .example.org "
        "stands for every name under it. Unset: any. Model files are found whatever this says.",
    )
    deny_hosts: Hosts = Field(
        (), alias="URL_DENY_HOSTS", description="Hosts that they may not lead to, whatever else is allowed."
    )
    allow_networks: Networks = Field(
        (),
        alias="URL_ALLOW_NETWORKS",
        description="Private networks that are open besides the public internet, such as 10.1.0.0/16,fd12::/32. "
        "Metadata services stay closed.",
    )
    deny_networks: Networks = Field(
        (), alias="URL_DENY_NETWORKS", description="Networks that stay closed, whatever else is allowed."
    )
    allow_ports: Ports = Field(
        (80, 443), alias="URL_ALLOW_PORTS", description="Ports that URLs may name, separated by commas."
    )
    max_audio_bytes: Count = Field(500 * MIB, alias="MAX_AUDIO_BYTES", description="Largest source file, bytes.")
    max_audio_seconds: Seconds = Field(3600.0, alias="MAX_AUDIO_SECONDS", description="Longest song, s.")
    download_timeout: Seconds = Field(600.0, alias="DOWNLOAD_TIMEOUT", description="Longest download of one source, s.")
    connect_timeout: Seconds = Field(
        10.0, alias="DOWNLOAD_CONNECT_TIMEOUT", description="Longest wait for a connection, s."
    )
    stall_timeout: Seconds = Field(
        30.0, alias="DOWNLOAD_STALL_TIMEOUT", description="Longest wait for the next bytes, s."
    )
    chunk_bytes: Count = Field(1 * MIB, alias="DOWNLOAD_CHUNK_BYTES", description="Bytes per read and write.")
    connections: int = Field(
        32,
        ge=1,
        le=64,
        alias="DOWNLOAD_CONNECTIONS",
        description="Most connections for one file; as many of them are used as make it come faster.",
    )
    rate_limit: int = Field(
        0, ge=0, alias="DOWNLOAD_RATE_LIMIT", description="Most that one process downloads, bytes/s; 0: no limit."
    )
    rate_limit_per_host: int = Field(
        0,
        ge=0,
        alias="DOWNLOAD_RATE_LIMIT_PER_HOST",
        description="Most that one process downloads from one host, bytes/s; 0: no limit.",
    )
    proxy: Annotated[SecretStr, AfterValidator(_proxy)] | None = Field(
        None,
        alias="DOWNLOAD_PROXY",
        description="http://, https:// or socks5h://[user:password@]host[:port], for downloads and webhooks. It is "
        "asked for addresses that were checked here. Unset: none; the environment's proxies are never used.",
    )
    certificate_pins: Pins = Field(
        (),
        alias="DOWNLOAD_CERTIFICATE_PINS",
        description="SHA-256 of the certificates that are trusted, separated by commas: host=hex for one host (any one "
        "of its pins will do), hex alone for every https download. They are verified as ever besides.",
    )
    minimum_tls: Literal["1.2", "1.3"] = Field(
        "1.2", alias="DOWNLOAD_MINIMUM_TLS", description="Oldest TLS for downloads and webhooks: 1.2 or 1.3."
    )
    http_version: Literal["1.1", "2", "3"] = Field(
        "1.1",
        alias="DOWNLOAD_HTTP",
        description="HTTP version of downloads by https: 1.1, or 2 or 3 with the optional package curl_cffi "
        "(requirements/http3.lock). Not with a proxy or pins.",
    )

    @model_validator(mode="after")
    def _what_curl_can(self) -> Self:
        if self.http_version != "1.1" and (self.proxy or self.certificate_pins):
            raise ValueError("DOWNLOAD_HTTP must be 1.1 with DOWNLOAD_PROXY or DOWNLOAD_CERTIFICATE_PINS")
        return self


class WorkerSettings(Section):
    title = "The workers"

    processor_health_host: str = Field(
        "127.0.0.1",
        alias="PROCESSOR_HEALTH_HOST",
        description="Address of the processor's /health and /ready.",
    )
    processor_health_port: Port = Field(
        8001,
        alias="PROCESSOR_HEALTH_PORT",
        description="Port of the processor's /health and /ready; 0: any free one.",
    )
    uploader_health_host: str = Field(
        "127.0.0.1", alias="UPLOADER_HEALTH_HOST", description="Address of the uploader's /health and /ready."
    )
    uploader_health_port: Port = Field(
        8002,
        alias="UPLOADER_HEALTH_PORT",
        description="Port of the uploader's /health and /ready; 0: any free one.",
    )
    shutdown_grace: Seconds = Field(
        30.0,
        alias="SHUTDOWN_GRACE",
        description="After SIGTERM, time to finish the job in hand before it is given back, s.",
    )
    devices: Devices = Field(
        ("auto",),
        alias="PROCESSOR_DEVICES",
        description="What a processor separates on: auto (every NVIDIA GPU there is, else the CPU), or cpu, or GPUs by "
        "number or UUID as nvidia-smi -L lists them, separated by commas. Numbers count within CUDA_VISIBLE_DEVICES, "
        "if that is set. A GPU that is named is used, or reported as unavailable.",
    )
    concurrency: int = Field(
        1,
        ge=1,
        le=16,
        alias="PROCESSOR_CONCURRENCY",
        description="Songs that are separated at a time on each of these devices, by a child process each with models "
        "of its own; more than 1 is for GPUs that one song does not fill.",
    )
    prefetch: int = Field(
        3,
        ge=0,
        le=16,
        alias="PREFETCH",
        description="Jobs that are fetched, decoded or handed over beside those that are separated.",
    )
    prefetch_bytes: Count = Field(
        4 * GIB,
        alias="PREFETCH_BYTES",
        description="Disk that the files of waiting jobs may take together, bytes; a job in its turn is never held up.",
    )
    uploader_concurrency: Count = Field(
        4, alias="UPLOADER_CONCURRENCY", description="Results that one uploader works on at a time."
    )
    job_timeout: Seconds = Field(
        7200.0,
        alias="JOB_TIMEOUT",
        description="Longest separation of any song by one model; a hung one is ended, s.",
    )
    job_timeout_base: Seconds = Field(
        300.0,
        alias="JOB_TIMEOUT_BASE",
        description="Longest separation of a song of no length, s; JOB_TIMEOUT_FACTOR is added for its length.",
    )
    job_timeout_factor: Seconds = Field(
        20.0,
        alias="JOB_TIMEOUT_FACTOR",
        description="Time for each second of the song, s; a large model on a CPU takes about 10.",
    )
    max_attempts: Count = Field(
        4, alias="MAX_ATTEMPTS", description="Tries of a job whose source answers with passing errors."
    )
    max_crashes: Count = Field(
        2, alias="MAX_CRASHES", description="Workers that one job may take down before it is dead-lettered."
    )
    retry_delays: Delays = Field(
        (10.0, 60.0, 600.0),
        alias="RETRY_DELAYS",
        description="Delays before the second, third … try, s; a topic each. The last one repeats.",
    )


def _webhook_secret(value: SecretStr) -> SecretStr:
    """Check the Standard Webhooks form: ``whsec_`` and the base64 of 24 to 64 bytes; two, while rotating."""
    for secret in value.get_secret_value().split():
        try:
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not secret.startswith("whsec_") or not 24 <= len(key) <= 64:
            raise ValueError("must be whsec_ followed by the base64 of 24 to 64 random bytes")
    return value


class WebhookSettings(Section):
    title = "The webhook"

    secret: Annotated[SecretStr, AfterValidator(_webhook_secret)] | None = Field(
        None,
        alias="WEBHOOK_SECRET",
        description="Signs webhooks: whsec_ and the base64 of 24 to 64 bytes; two, separated by a space, "
        "while rotating. Unset: webhooks are not signed.",
    )
    timeout: Seconds = Field(15.0, alias="WEBHOOK_TIMEOUT", description="Longest wait for the receiver, s.")
    max_attempts: Count = Field(
        12,
        alias="WEBHOOK_MAX_ATTEMPTS",
        description="Tries before the result is dead-lettered; RETRY_DELAYS lie between them, 91 minutes in all.",
    )


class LogSettings(Section):
    title = "Logs"

    level: str = Field(
        "INFO",
        pattern="^(DEBUG|INFO|WARNING|ERROR)$",
        alias="LOG_LEVEL",
        description="Least severe line that is written.",
    )
    format: LogFormat = Field(LogFormat.JSON, alias="LOG_FORMAT", description="json or console.")


class ConfigError(Exception):
    """The settings cannot be used; the message names the variable and what to do."""


SectionT = TypeVar("SectionT", bound=Section)


class Settings:
    """All settings, read at once. Raises ConfigError naming each variable that cannot be used."""

    def __init__(self, env_file: Path | None = Path(".env")) -> None:
        problems: list[str] = []

        def read(section: type[SectionT]) -> SectionT:
            try:
                return section(_env_file=env_file)
            except ValidationError as error:
                problems.extend(_sentences(error))
                return cast(SectionT, section.model_construct())  # never seen: the problems are raised below

        self.api = read(ApiSettings)
        self.kafka = read(KafkaSettings)
        self.state = read(StateSettings)
        self.storage = read(StorageSettings)
        self.model = read(ModelSettings)
        self.device = read(DeviceSettings)
        self.download = read(DownloadSettings)
        self.worker = read(WorkerSettings)
        self.webhook = read(WebhookSettings)
        self.log = read(LogSettings)
        if problems:
            raise ConfigError("; ".join(problems))


SECTIONS: tuple[type[Section], ...] = (
    ApiSettings,
    KafkaSettings,
    StateSettings,
    StorageSettings,
    ModelSettings,
    DeviceSettings,
    DownloadSettings,
    WorkerSettings,
    WebhookSettings,
    LogSettings,
)


def load(env_file: Path | None = Path(".env")) -> Settings:
    """Read and check every setting. Raises ConfigError naming each variable that cannot be used."""
    return Settings(env_file)


def _sentences(error: ValidationError) -> Iterator[str]:
    """One sentence per wrong variable; the value itself is left out, since it may be a secret."""
    for item in error.errors(include_input=False, include_url=False):
        name = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        yield f"{name}: {message}" if name else message


def env_example() -> str:
    """The text of ``.env.example``: every variable with its description and default."""
    lines = ["# Every setting with its default. Copy to .env and change what you need.", ""]
    for section in SECTIONS:
        lines += [f"# --- {section.title} ---", ""]
        for field in section.model_fields.values():
            lines += [f"# {field.description}", f"{field.alias}={_shown_default(field)}", ""]
    return "\n".join(lines)


def _shown_default(field: FieldInfo) -> str:
    default: Any = field.default
    if default is None:
        return ""
    if isinstance(default, tuple):
        return ",".join(f"{part:g}" if isinstance(part, float) else str(part) for part in default)
    return str(default).lower() if isinstance(default, bool) else str(default)


if __name__ == "__main__":
    sys.stdout.write(env_example())
