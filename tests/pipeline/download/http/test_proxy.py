"""Downloads through a proxy: the guard decides as without one, and the proxy connects to the checked address."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
import trustme

from pipeline.download import ConnectionOptions, UrlGuard, guarded_session
from pipeline.download.http.proxy import Proxy
from pipeline.download.http.tls import client_context
from pipeline.errors import CancelledError, ErrorCode, InfrastructureError, PermanentError, TransientError
from tests.pipeline.download.fetching import Fetcher
from tests.pipeline.download.http.proxies import ProxyServer
from tests.pipeline.download.network import PUBLIC, PUBLIC_6, Names
from tests.support.source_server import SourceServer, redirect, silence, stall_after

SONG = b"a song" * 50_000
CREDENTIALS = ("user@home", "secret:/?#[]")
ENCODED_CREDENTIALS = "user%40home:secret%3A%2F%3F%23%5B%5D"


@pytest.fixture
def servers(server: SourceServer, secure_server: SourceServer) -> dict[int, SourceServer]:
    server.serve_bytes("/song", SONG)
    secure_server.serve_bytes("/song", SONG)
    return {80: server, 443: secure_server}


Start = Callable[..., tuple[ProxyServer, ConnectionOptions]]


@pytest.fixture
def start(servers: dict[int, SourceServer], authority: trustme.CA, ca_bundle: Path) -> Iterator[Start]:
    """Start proxies of a kind; yield each with its connection options."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with ExitStack() as stack:

        def start(kind: str, userinfo: str = "", **options: Any) -> tuple[ProxyServer, ConnectionOptions]:
            tls = context if kind == "https" else None
            proxy = stack.enter_context(ProxyServer(servers, tls=tls, **options))
            at = "@" if userinfo else ""
            return proxy, ConnectionOptions(ca_bundle=ca_bundle, proxy=f"{kind}://{userinfo}{at}localhost:{proxy.port}")

        yield start


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    names = {
        "public.test": [[PUBLIC]],
        "public6.test": [[PUBLIC_6]],
        "inside.test": [["10.0.0.1"]],
        "rebind.test": [[PUBLIC], ["127.0.0.1"]],
    }
    return Fetcher(tmp_path, UrlGuard(False, resolver=Names(names)))


KINDS = pytest.mark.parametrize("kind", ["http", "https", "socks5", "socks5h"])
SCHEMES = pytest.mark.parametrize("scheme", ["http", "https"])


@KINDS
@SCHEMES
def test_proxy_connects_to_the_checked_address(
    kind: str, scheme: str, start: Start, servers: dict[int, SourceServer], fetcher: Fetcher
) -> None:
    proxy, connection_options = start(kind)
    port = {"http": 80, "https": 443}[scheme]
    assert (
        fetcher.fetch(f"{scheme}://public.test/song", connection_options=connection_options).path.read_bytes() == SONG
    )
    assert proxy.requested == [(PUBLIC, port)]
    (request,) = servers[port].requests
    # In the form for an origin server: the proxy forwards it unchanged.
    assert (request.headers["host"], request.target) == ("public.test", "/song")
    assert "proxy-authorization" not in request.headers


@KINDS
def test_ipv6(kind: str, start: Start, fetcher: Fetcher) -> None:
    proxy, connection_options = start(kind)
    fetcher.fetch("https://public6.test/song", connection_options=connection_options)
    assert proxy.requested == [(PUBLIC_6, 443)]


@KINDS
@pytest.mark.parametrize(
    "url", ["http://inside.test/", "https://127.0.0.1/", "http://public.test:22/", "http://localhost/"]
)
def test_forbidden_url_never_reaches_the_proxy(kind: str, url: str, start: Start, fetcher: Fetcher) -> None:
    proxy, connection_options = start(kind)
    fetcher.fail(url, PermanentError, ErrorCode.URL_FORBIDDEN, connection_options=connection_options)
    assert proxy.connections == 0


@KINDS
def test_redirects_and_rebinding(kind: str, start: Start, servers: dict[int, SourceServer], fetcher: Fetcher) -> None:
    servers[80].add("/start", redirect("http://rebind.test/song"))
    proxy, connection_options = start(kind)
    fetcher.fail(
        "http://rebind.test/start", PermanentError, ErrorCode.URL_FORBIDDEN, connection_options=connection_options
    )
    assert proxy.requested == [(PUBLIC, 80)]


def test_no_proxy_in_the_environment_is_ignored(
    start: Start, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "*")
    proxy, connection_options = start("http")
    fetcher.fetch("http://public.test/song", connection_options=connection_options)
    assert proxy.requested == [(PUBLIC, 80)]


def test_certificate_must_match_the_name(start: Start, tmp_path: Path) -> None:
    _, connection_options = start("http")
    subject = Fetcher(tmp_path, UrlGuard(False, resolver=Names({"other.test": [[PUBLIC]]})))
    subject.fail(
        "https://other.test/song", PermanentError, ErrorCode.SOURCE_REFUSED, connection_options=connection_options
    )


@KINDS
def test_credentials(kind: str, start: Start, fetcher: Fetcher) -> None:
    proxy, connection_options = start(kind, ENCODED_CREDENTIALS, credentials=CREDENTIALS)
    fetcher.fetch("https://public.test/song", connection_options=connection_options)
    assert proxy.requested == [(PUBLIC, 443)]


@KINDS
@pytest.mark.parametrize("userinfo", ["", "user:secret"])
def test_wrong_credentials_are_an_infrastructure_error_and_stay_secret(
    kind: str, userinfo: str, start: Start, fetcher: Fetcher
) -> None:
    proxy, connection_options = start(kind, userinfo, credentials=CREDENTIALS)
    assert "secret" not in repr(connection_options)
    with structlog.testing.capture_logs() as logs:
        fetcher.fail(
            "https://public.test/",
            InfrastructureError,
            ErrorCode.SOURCE_UNAVAILABLE,
            connection_options=connection_options,
        )
    assert "secret" not in repr(logs)
    assert proxy.requested == []


@KINDS
def test_unreachable_proxy_is_an_infrastructure_error(kind: str, fetcher: Fetcher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    connection_options = ConnectionOptions(proxy=f"{kind}://user:secret@127.0.0.1:{port}")
    error = fetcher.fail(
        "http://public.test/", InfrastructureError, ErrorCode.SOURCE_UNAVAILABLE, connection_options=connection_options
    )
    assert "DOWNLOAD_PROXY" in error.message


def test_proxy_without_a_valid_certificate(start: Start, fetcher: Fetcher) -> None:
    proxy, connection_options = start("https")
    connection_options = replace(connection_options, ca_bundle=None)
    fetcher.fail(
        "http://public.test/", InfrastructureError, ErrorCode.SOURCE_UNAVAILABLE, connection_options=connection_options
    )
    assert proxy.requested == []


REFUSED = (PermanentError, ErrorCode.SOURCE_REFUSED)
UNREACHABLE = (TransientError, ErrorCode.SOURCE_UNAVAILABLE)
TIMED_OUT = (TransientError, ErrorCode.SOURCE_TIMEOUT)
UNUSABLE = (InfrastructureError, ErrorCode.SOURCE_UNAVAILABLE)


@pytest.mark.parametrize(
    ("kind", "answer", "expected"),
    [
        ("http", b"HTTP/1.1 403 No\r\n\r\n", REFUSED),
        ("http", b"HTTP/1.1 502 Bad Gateway\r\n\r\n", UNREACHABLE),
        ("http", b"HTTP/1.1 429 Later\r\n\r\n", UNREACHABLE),
        ("http", b"HTTP/1.1 504 Late\r\n\r\n", TIMED_OUT),
        ("http", b"220 mail.test ESMTP\r\n\r\n", UNUSABLE),
        ("http", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000, UNUSABLE),
        ("http", b"HTTP/1.1 200 OK\r\n", TIMED_OUT),
        ("http", b"", TIMED_OUT),
        ("socks5h", b"\5\2\0\1", REFUSED),
        ("socks5h", b"\5\4\0\1", UNREACHABLE),
        ("socks5h", b"\5\5\0\1", UNREACHABLE),
        ("socks5h", b"\5\6\0\1", TIMED_OUT),
        ("socks5h", b"\5\0\0\7", UNUSABLE),
        ("socks5h", b"\5\0\0\3", TIMED_OUT),
        ("socks5h", b"", TIMED_OUT),
    ],
)
def test_responses_of_the_proxy(kind: str, answer: bytes, expected: Any, start: Start, fetcher: Fetcher) -> None:
    _, connection_options = start(kind, refusal=answer)
    fetcher.fail("http://public.test/", *expected, connection_options=connection_options, connect_timeout=0.3)


@pytest.mark.parametrize("kind", ["socks5h", "https"])
def test_server_that_is_no_proxy(kind: str, fetcher: Fetcher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        greeter = threading.Thread(target=_greet, args=(listener,))
        greeter.start()
        connection_options = ConnectionOptions(proxy=f"{kind}://127.0.0.1:{listener.getsockname()[1]}")
        fetcher.fail(
            "http://public.test/",
            InfrastructureError,
            ErrorCode.SOURCE_UNAVAILABLE,
            connection_options=connection_options,
        )
        greeter.join()


def _greet(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.sendall(b"220 mail.test ESMTP\r\n")
        connection.recv(65536)


@pytest.mark.parametrize(("kind", "scheme"), [("http", "http"), ("https", "https"), ("socks5h", "https")])
def test_deadlines_fire_through_the_proxy(
    kind: str, scheme: str, start: Start, servers: dict[int, SourceServer], fetcher: Fetcher
) -> None:
    for source in servers.values():
        source.add("/stall", stall_after(SONG, 1000))
        source.add("/silence", silence)
    _, connection_options = start(kind)
    for path in ("stall", "silence"):
        url = f"{scheme}://public.test/{path}"
        fetcher.fail(
            url, TransientError, ErrorCode.SOURCE_TIMEOUT, connection_options=connection_options, stall_timeout=0.2
        )


def test_cancellation_ends_a_download_through_the_proxy(
    start: Start, servers: dict[int, SourceServer], fetcher: Fetcher
) -> None:
    def cancel(exchange: Any) -> None:
        fetcher.cancel.cancel(ErrorCode.SHUTTING_DOWN)
        exchange.hold()

    servers[443].add("/cancel", cancel)
    _, connection_options = start("https")
    fetcher.fail(
        "https://public.test/cancel", CancelledError, ErrorCode.SHUTTING_DOWN, connection_options=connection_options
    )


@KINDS
def test_webhooks_use_the_proxy(kind: str, start: Start, servers: dict[int, SourceServer]) -> None:
    proxy, connection_options = start(kind)
    guard = UrlGuard(False, resolver=Names({"public.test": [[PUBLIC]]}))
    with guarded_session(guard, connect_timeout=5, read_timeout=5, connection_options=connection_options) as session:
        for _ in range(2):
            assert session.post("https://public.test/song", data=b"{}").content == SONG
    assert proxy.requested == [(PUBLIC, 443)]
    assert [request.body for request in servers[443].requests] == [b"{}", b"{}"]


@pytest.mark.parametrize("url", ["ftp://proxy.test", "socks4://proxy.test", "http://", "proxy.test:3128"])
def test_other_schemes_raise_value_error(url: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        guarded_session(
            UrlGuard(False), connect_timeout=1, read_timeout=1, connection_options=ConnectionOptions(proxy=url)
        )


def test_repr_has_no_credentials() -> None:
    proxy = Proxy.from_url("http://user:secret@proxy.test", client_context(None, "1.2"))
    assert (proxy.host, proxy.port, proxy.credentials) == ("proxy.test", 80, ("user", "secret"))
    assert "secret" not in repr(proxy)
