"""Servers on loopback for the names and addresses of ``network``."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.support.source_server import SourceServer

#: Names in the certificate of ``secure_server``.
CERTIFIED = ("public.test", "*.public.test", "public6.test", "rebind6.test", "two.test", "xn--bcher-kva.test")
CERTIFIED_ADDRESSES = ("93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946")


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def ca_bundle(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(scope="session")
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*CERTIFIED, *CERTIFIED_ADDRESSES).configure_cert(context)
    return context


@pytest.fixture
def server() -> Iterator[SourceServer]:
    with SourceServer() as running:
        yield running


@pytest.fixture
def secure_server(server_context: ssl.SSLContext) -> Iterator[SourceServer]:
    with SourceServer(tls=server_context) as running:
        yield running
