"""Certificates for tests: an authority, certificates that it has issued, and an unrelated authority."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

KEY_PASSWORD = "opens-the-key"


@dataclass(frozen=True)
class Certificates:
    """PEM files."""

    authority: Path
    broker: Path
    """Key and certificate for 127.0.0.1, without a name."""
    service: Path
    """Certificate; its key is in ``service_key``, encrypted with ``KEY_PASSWORD``."""
    service_key: Path
    stranger: Path
    """An unrelated authority."""
    strangers_service: Path
    """Key and certificate from the unrelated authority."""


def make_certificates(folder: Path) -> Certificates:
    """Create all certificates in ``folder``."""
    authority, stranger = trustme.CA(), trustme.CA()
    service = authority.issue_cert("service.example")

    def written(name: str, content: bytes) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    return Certificates(
        authority=written("authority.pem", authority.cert_pem.bytes()),
        broker=written("broker.pem", _key_and_chain(authority.issue_cert("127.0.0.1"))),
        service=written("service.pem", _chain(service)),
        service_key=written("service-key.pem", _key(service, BestAvailableEncryption(KEY_PASSWORD.encode()))),
        stranger=written("stranger.pem", stranger.cert_pem.bytes()),
        strangers_service=written("strangers-service.pem", _key_and_chain(stranger.issue_cert("service.example"))),
    )


def _key_and_chain(certificate: trustme.LeafCert) -> bytes:
    return _key(certificate, NoEncryption()) + _chain(certificate)


def _chain(certificate: trustme.LeafCert) -> bytes:
    return b"".join(pem.bytes() for pem in certificate.cert_chain_pems)


def _key(certificate: trustme.LeafCert, encryption: KeySerializationEncryption) -> bytes:
    """Return the key in PKCS #8, the only form that Kafka reads."""
    key = load_pem_private_key(certificate.private_key_pem.bytes(), password=None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
