"""Settings of downloads and of the URLs that the services may connect to."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from settings.types import (
    ADVANCED,
    MIB,
    SPLIT,
    Bytes,
    BytesPerSecond,
    Hosts,
    Networks,
    Ports,
    Seconds,
    Section,
    require_host,
)

_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")


def _pin(value: str) -> str:
    """Return a certificate's SHA-256 in lower case without colons, after ``host=`` if that precedes it."""
    host, separator, digest = value.rpartition("=")
    digest = digest.replace(":", "").lower()
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError("must be the SHA-256 of certificates: 64 hexadecimal digits each, host= before them or not")
    return (require_host(host) + separator if separator else "") + digest


def _proxy(value: SecretStr) -> SecretStr:
    """Check a proxy's URL without ever showing it: it may contain a password."""
    wrong = ValueError("must be http://, https:// or socks5h:// with a host, and user:password@ before it if need be")
    try:
        parts = urlsplit(value.get_secret_value())
        complete = parts.hostname and parts.port != 0
    except ValueError:
        raise wrong from None
    if (
        parts.scheme not in _PROXY_SCHEMES
        or not complete
        or parts.path not in ("", "/")
        or parts.query
        or parts.fragment
    ):
        raise wrong
    return value


def _ca_bundle(value: Path) -> Path:
    """Check that the file holds certificates that OpenSSL can load."""
    try:
        ssl.create_default_context(cafile=value)
    except OSError:  # ssl.SSLError is one
        raise ValueError("must be a file that can be read, with certificates in PEM format") from None
    return value


class DownloadSettings(Section):
    """Limits of downloads, and the allowlists and denylists of URLs."""

    title = "Downloads and network access"

    allow_private_networks: bool = Field(
        False,
        alias="ALLOW_PRIVATE_NETWORKS",
        description="true: allow audio URLs and webhooks on loopback and private addresses, and on every port.",
    )
    allow_hosts: Hosts = Field(
        (),
        alias="URL_ALLOW_HOSTS",
        description="The only hosts that audio URLs, redirects and webhooks may name, separated by commas; "
        ".example.org includes every name under it. Unset: any host. Downloads of model files are not restricted.",
    )
    deny_hosts: Hosts = Field(
        (),
        alias="URL_DENY_HOSTS",
        description="Hosts that audio URLs, redirects and webhooks must not name. It overrides URL_ALLOW_HOSTS.",
    )
    allow_networks: Networks = Field(
        (),
        alias="URL_ALLOW_NETWORKS",
        description="Private networks that are allowed besides the public internet, such as 10.1.0.0/16,fd12::/32. "
        "The metadata services of cloud providers stay blocked.",
    )
    deny_networks: Networks = Field(
        (),
        alias="URL_DENY_NETWORKS",
        description="Networks that are blocked. It overrides every setting that allows a network.",
    )
    allow_ports: Ports = Field(
        (80, 443), alias="URL_ALLOW_PORTS", description="Ports that URLs may name, separated by commas."
    )
    max_audio_bytes: Bytes = Field(
        500 * MIB, alias="MAX_AUDIO_BYTES", description="Largest source file that is accepted (bytes)."
    )
    max_audio_seconds: Seconds = Field(
        3600.0, alias="MAX_AUDIO_SECONDS", description="Longest song that is accepted (seconds)."
    )
    download_timeout: Seconds = Field(
        600.0, alias="DOWNLOAD_TIMEOUT", description="Longest download of one source file (seconds)."
    )
    connect_timeout: Seconds = Field(
        10.0,
        alias="DOWNLOAD_CONNECT_TIMEOUT",
        description="Longest wait for a connection (seconds).",
        json_schema_extra=ADVANCED,
    )
    stall_timeout: Seconds = Field(
        30.0,
        alias="DOWNLOAD_STALL_TIMEOUT",
        description="Longest wait for the next bytes (seconds).",
        json_schema_extra=ADVANCED,
    )
    chunk_bytes: Bytes = Field(
        1 * MIB,
        alias="DOWNLOAD_CHUNK_BYTES",
        description="Size of one read and write (bytes).",
        json_schema_extra=ADVANCED,
    )
    connections: int = Field(
        32,
        ge=1,
        le=64,
        alias="DOWNLOAD_CONNECTIONS",
        description="Maximum number of connections for one file. The download opens more connections only "
        "while that makes it faster.",
        json_schema_extra=ADVANCED,
    )
    rate_limit: BytesPerSecond = Field(
        0,
        alias="DOWNLOAD_RATE_LIMIT",
        description="Rate limit of all downloads of one process together (bytes per second). 0: no limit.",
        json_schema_extra=ADVANCED,
    )
    rate_limit_per_host: BytesPerSecond = Field(
        0,
        alias="DOWNLOAD_RATE_LIMIT_PER_HOST",
        description="Rate limit of the downloads of one process from one host (bytes per second). 0: no limit.",
        json_schema_extra=ADVANCED,
    )
    proxy: Annotated[SecretStr, AfterValidator(_proxy)] | None = Field(
        None,
        alias="DOWNLOAD_PROXY",
        description="Proxy for downloads and webhooks: http://, https:// or socks5h://[user:password@]host[:port]. "
        "The proxy receives the addresses that were checked here, not host names. Unset: none. The proxy variables "
        "of the environment (HTTPS_PROXY …) are never used.",
    )
    certificate_pins: Annotated[tuple[Annotated[str, AfterValidator(_pin)], ...], SPLIT] = Field(
        (),
        alias="DOWNLOAD_CERTIFICATE_PINS",
        description="SHA-256 hashes of the certificates that are trusted, separated by commas: host=hex for one host "
        "(one matching pin of the host is enough), or hex alone for every HTTPS download. The usual verification of "
        "certificates takes place as well.",
        json_schema_extra=ADVANCED,
    )
    ca_bundle: Annotated[Path, AfterValidator(_ca_bundle)] | None = Field(
        None,
        alias="CA_BUNDLE",
        description="PEM file of the certificate authorities that are trusted for audio URLs, model files and "
        "webhooks, instead of the public ones: for a private authority, a file that holds both, such as "
        "/etc/ssl/certs/ca-certificates.crt. Unset: SSL_CERT_FILE, REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE.",
    )
    minimum_tls: Literal["1.2", "1.3"] = Field(
        "1.2",
        alias="DOWNLOAD_MINIMUM_TLS",
        description="Oldest TLS version for downloads and webhooks: 1.2 or 1.3.",
        json_schema_extra=ADVANCED,
    )
    http_version: Literal["1.1", "2", "3"] = Field(
        "1.1",
        alias="DOWNLOAD_HTTP",
        description="HTTP version of HTTPS downloads: 1.1, or 2 or 3 with the optional package curl_cffi "
        "(requirements/http3.lock). 2 and 3 cannot be combined with a proxy or with pins.",
        json_schema_extra=ADVANCED,
    )

    @model_validator(mode="after")
    def _require_curl_support(self) -> Self:
        if self.http_version != "1.1" and (self.proxy or self.certificate_pins):
            raise ValueError("DOWNLOAD_HTTP must be 1.1 with DOWNLOAD_PROXY or DOWNLOAD_CERTIFICATE_PINS")
        return self
