"""HTTP/2 and HTTP/3 by libcurl: the same guard, limits and errors as over HTTP/1.1."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from curl_cffi import CurlOpt

from config import ConfigError, DownloadSettings
from pipeline.download import ConnectionOptions, UrlGuard
from pipeline.download.http.curl_adapter import CurlAdapter
from pipeline.download.http.session import GuardedSession, HttpVersion, guarded_session, require_curl_cffi
from pipeline.errors import CancelledError, ErrorCode, PermanentError, PipelineError, TransientError
from tests.pipeline.download.fetching import Fetcher
from tests.pipeline.download.http.http2_server import Http2Server
from tests.pipeline.download.http.http3_server import Ending, Http3Response, Http3Server, file_response
from tests.pipeline.download.network import PUBLIC, Names
from tests.support.source_server import (
    Exchange,
    SourceServer,
    announced,
    answer,
    chunked,
    content,
    drip,
    drip_headers,
    endless_body,
    endless_continue,
    many_headers,
    raw,
    redirect,
    reset_after,
    silence,
    stall_after,
)

SONG = b"a song" * 200_000
MIB = 1024 * 1024

#: Names that no DNS has: a transfer to them has used the guard's addresses.
LOOPBACK = Names({name: [["127.0.0.1"]] for name in ("public.test", "other.test")})


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    return Fetcher(tmp_path, UrlGuard(True, resolver=LOOPBACK))


@pytest.fixture
def http2(ca_bundle: Path) -> ConnectionOptions:
    return ConnectionOptions(ca_bundle=ca_bundle, http="2")


@pytest.fixture
def http3(ca_bundle: Path) -> ConnectionOptions:
    return ConnectionOptions(ca_bundle=ca_bundle, http="3")


@pytest.fixture
def certificate(authority: trustme.CA) -> trustme.LeafCert:
    return authority.issue_cert("public.test")


@contextmanager
def session_for(options: ConnectionOptions, guard: UrlGuard | None = None) -> Iterator[GuardedSession]:
    guard = guard or UrlGuard(True, resolver=LOOPBACK)
    with guarded_session(guard, connect_timeout=10, read_timeout=10, connection_options=options) as session:
        yield session


def at(name: str, server: SourceServer, path: str = "/") -> str:
    return server.url(path).replace("127.0.0.1", name)


# HTTP/2


def test_file_arrives_over_http2(certificate: trustme.LeafCert, http2: ConnectionOptions, fetcher: Fetcher) -> None:
    with Http2Server(certificate, SONG) as server:
        got = fetcher.fetch(f'https://public.test:{server.port}/a"bü?q=%22', connection_options=http2)
    assert got.path.read_bytes() == SONG
    assert (got.content_type, got.extension) == ("audio/wav", "wav")
    (request,) = server.requests
    assert request[":authority"] == f"public.test:{server.port}"
    assert request[":path"] == "/a%22b%C3%BC?q=%22"
    assert request["accept-encoding"] == "identity"


def test_http2_stream_that_is_reset(certificate: trustme.LeafCert, http2: ConnectionOptions, fetcher: Fetcher) -> None:
    with Http2Server(certificate, SONG, cut=1000) as server, pytest.raises(TransientError):
        fetcher.fetch(f"https://public.test:{server.port}/", connection_options=http2)
    assert list(fetcher.folder.iterdir()) == []


# HTTP/3


def test_file_arrives_over_http3(certificate: trustme.LeafCert, http3: ConnectionOptions, fetcher: Fetcher) -> None:
    with Http3Server(certificate, file_response(SONG)) as server:
        got = fetcher.fetch(f'https://public.test:{server.port}/a"bü?q=%22', connection_options=http3)
    assert got.path.read_bytes() == SONG
    assert (got.content_type, got.extension) == ("audio/wav", "wav")
    request = server.requests[0]
    assert request[":authority"] == f"public.test:{server.port}"
    assert request[":path"] == "/a%22b%C3%BC?q=%22"
    assert request["accept-encoding"] == "identity"
    assert "connection" not in request


def test_one_http3_connection_serves_several_ranges(certificate: trustme.LeafCert, http3: ConnectionOptions) -> None:
    with Http3Server(certificate, file_response(SONG)) as server, session_for(http3) as session:
        for start in (0, 1000, 500_000):
            wanted = {"Range": f"bytes={start}-{start + 9}"}
            response = session.get(f"https://public.test:{server.port}/", headers=wanted, stream=True)
            assert response.status_code == 206
            assert response.raw.read() == SONG[start : start + 10]
    assert server.connections == 1


def test_host_without_http3_is_read_over_http2(
    certificate: trustme.LeafCert, http3: ConnectionOptions, fetcher: Fetcher
) -> None:
    with Http2Server(certificate, SONG) as server:
        got = fetcher.fetch(f"https://public.test:{server.port}/", connection_options=http3)
    assert got.path.read_bytes() == SONG


HTTP3_ERRORS: list[tuple[Http3Response, ErrorCode, dict[str, Any]]] = [
    (Http3Response(status=404), ErrorCode.SOURCE_NOT_FOUND, {}),
    (Http3Response(status=503), ErrorCode.SOURCE_UNAVAILABLE, {}),
    (Http3Response(b""), ErrorCode.AUDIO_EMPTY, {}),
    (Http3Response(SONG), ErrorCode.SOURCE_TOO_LARGE, {"max_bytes": 1000}),
    (Http3Response(SONG, headers=[("content-encoding", "gzip")]), ErrorCode.SOURCE_PROTOCOL, {}),
    (Http3Response(SONG, announced=len(SONG) + 1), ErrorCode.SOURCE_UNAVAILABLE, {}),
    (Http3Response(SONG[:1000], announced=2000, ending=Ending.RESET), ErrorCode.SOURCE_INCOMPLETE, {}),
    (Http3Response(SONG, headers=[(f"x-{n}", "x" * 60_000) for n in range(7)]), ErrorCode.SOURCE_PROTOCOL, {}),
    (Http3Response(SONG, headers=[(f"x-{n}", "x" * 900) for n in range(400)]), ErrorCode.SOURCE_PROTOCOL, {}),
    (Http3Response(SONG[:9], announced=99, ending=Ending.STALL), ErrorCode.SOURCE_TIMEOUT, {"stall_timeout": 0.5}),
    (Http3Response(SONG[:9], announced=99, ending=Ending.STALL), ErrorCode.SOURCE_TIMEOUT, {"total_timeout": 0.5}),
    (Http3Response(status=302, headers=[("location", "/again")]), ErrorCode.SOURCE_REFUSED, {}),
    (Http3Response(status=302, headers=[("location", "https://169.254.169.254/")]), ErrorCode.URL_FORBIDDEN, {}),
    (Http3Response(status=302, headers=[("location", "http://public.test/")]), ErrorCode.SOURCE_REFUSED, {}),
]


@pytest.mark.parametrize(("response", "code", "limits"), HTTP3_ERRORS, ids=range(len(HTTP3_ERRORS)))
def test_errors_over_http3(
    response: Http3Response,
    code: ErrorCode,
    limits: dict[str, Any],
    certificate: trustme.LeafCert,
    http3: ConnectionOptions,
    fetcher: Fetcher,
) -> None:
    with Http3Server(certificate, lambda _: response) as server:
        url = f"https://public.test:{server.port}/"
        fetcher.fail(url, PipelineError, code, connection_options=http3, **limits)


@pytest.mark.parametrize("host", ["public.test", "other.test"])
def test_http3_certificates_are_verified(
    host: str, certificate: trustme.LeafCert, http3: ConnectionOptions, fetcher: Fetcher
) -> None:
    trusting = http3 if host == "other.test" else replace(http3, ca_bundle=None)
    with Http3Server(certificate, file_response(SONG)) as server:
        url = f"https://{host}:{server.port}/"
        with pytest.raises(PipelineError):
            fetcher.fetch(url, connection_options=trusting)
    assert server.requests == []


def test_cancellation_ends_a_stalled_http3_transfer_within_a_second(
    certificate: trustme.LeafCert, http3: ConnectionOptions, fetcher: Fetcher
) -> None:
    stalled = Http3Response(SONG[:1000], announced=len(SONG), ending=Ending.STALL)
    timer = threading.Timer(0.5, fetcher.cancel.cancel, [ErrorCode.SHUTTING_DOWN])
    with Http3Server(certificate, lambda _: stalled) as server:
        timer.start()
        started = time.monotonic()
        url = f"https://public.test:{server.port}/"
        fetcher.fail(url, CancelledError, ErrorCode.SHUTTING_DOWN, connection_options=http3)
        assert time.monotonic() - started < 0.5 + 1.0


def test_slow_reader_slows_the_http3_server_down(certificate: trustme.LeafCert, http3: ConnectionOptions) -> None:
    """Backpressure: what the client has not read stays with the server, but for the window of the protocol."""
    body = bytes(48 * MIB)
    with Http3Server(certificate, file_response(body)) as server, session_for(http3) as session:
        response = session.get(f"https://public.test:{server.port}/", stream=True)
        assert len(response.raw.read(MIB)) == MIB
        time.sleep(0.5)
        assert server.sent < 8 * MIB
        assert len(response.raw.read(MIB)) == MIB
        response.close()


# Both: plain http, which libcurl sends as HTTP/1.1, has servers for every kind of misbehaviour


@pytest.mark.parametrize(
    ("behaviour", "code", "limits"),
    [
        (answer(404), ErrorCode.SOURCE_NOT_FOUND, {}),
        (answer(503), ErrorCode.SOURCE_UNAVAILABLE, {}),
        (content(b""), ErrorCode.AUDIO_EMPTY, {}),
        (content(SONG), ErrorCode.SOURCE_TOO_LARGE, {"max_bytes": 1000}),
        (chunked(SONG), ErrorCode.SOURCE_TOO_LARGE, {"max_bytes": 1000}),
        (endless_body, ErrorCode.SOURCE_TOO_LARGE, {"max_bytes": 100_000}),
        (content(b"x", headers={"Content-Encoding": "gzip"}), ErrorCode.SOURCE_PROTOCOL, {}),
        (content(b"x", headers={"Transfer-Encoding": "gzip"}), ErrorCode.SOURCE_PROTOCOL, {}),
        (announced(SONG, len(SONG) + 1), ErrorCode.SOURCE_INCOMPLETE, {}),
        (announced(SONG, -1), ErrorCode.SOURCE_PROTOCOL, {}),
        (chunked(SONG, finished=False), ErrorCode.SOURCE_INCOMPLETE, {}),
        (raw(b"220 mail.test ESMTP\r\n"), ErrorCode.SOURCE_PROTOCOL, {}),
        (raw(b""), ErrorCode.SOURCE_UNAVAILABLE, {}),
        (raw(b"HTTP/1.1 200 OK\r\nX: y"), ErrorCode.SOURCE_UNAVAILABLE, {}),
        (many_headers(20_000), ErrorCode.SOURCE_PROTOCOL, {}),
        (silence, ErrorCode.SOURCE_TIMEOUT, {"stall_timeout": 0.3}),
        (stall_after(SONG, 1000), ErrorCode.SOURCE_TIMEOUT, {"stall_timeout": 0.3}),
        (drip(SONG, 0.05), ErrorCode.SOURCE_TIMEOUT, {"total_timeout": 0.5}),
        (drip_headers(0.05), ErrorCode.SOURCE_TIMEOUT, {"total_timeout": 0.5}),
        (endless_continue(), ErrorCode.SOURCE_TIMEOUT, {"total_timeout": 0.5}),
        (redirect("http://169.254.169.254/"), ErrorCode.URL_FORBIDDEN, {}),
        (redirect("file:///etc/passwd"), ErrorCode.URL_FORBIDDEN, {}),
        (redirect("/again"), ErrorCode.SOURCE_REFUSED, {}),
    ],
)
def test_errors(
    behaviour: Any,
    code: ErrorCode,
    limits: dict[str, Any],
    server: SourceServer,
    http2: ConnectionOptions,
    fetcher: Fetcher,
) -> None:
    server.otherwise(behaviour)
    fetcher.fail(at("public.test", server), PipelineError, code, connection_options=http2, **limits)


@pytest.mark.parametrize("location", ["/next", "http://other.test/", "file:///etc/passwd"])
def test_libcurl_follows_no_redirect(location: str, server: SourceServer, http2: ConnectionOptions) -> None:
    server.otherwise(redirect(location))
    with session_for(http2) as session:
        assert session.get(at("public.test", server), stream=True).status_code == 302
    assert len(server.requests) == 1


@pytest.mark.parametrize("scheme", ["file", "ftp"])
def test_other_protocols_are_refused(scheme: str, http2: ConnectionOptions) -> None:
    """Even without the guard's own check of the URL."""
    adapter = CurlAdapter(UrlGuard(True, resolver=LOOPBACK), http2, (5, 5), None)
    request = requests.Request("GET", "http://public.test/").prepare()
    request.url = f"{scheme}://public.test/etc/passwd"
    with pytest.raises(HTTPException):
        adapter.send(request)
    adapter.close()


def test_only_the_body_is_the_file(server: SourceServer, http2: ConnectionOptions, fetcher: Fetcher) -> None:
    """Interim responses, trailers, and lines of the body that look like a head are kept apart."""
    body = b"HTTP/1.1 200 OK\r\n\r\nsong"
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
    server.otherwise(raw(early + head + b"%x\r\n%b\r\n0\r\nX-Sum: 1\r\n\r\n" % (len(body), body)))
    got = fetcher.fetch(at("public.test", server), connection_options=http2)
    assert got.path.read_bytes() == body


def test_chunks_overrule_an_announced_length(server: SourceServer, http2: ConnectionOptions, fetcher: Fetcher) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.otherwise(raw(head + b"4\r\nsong\r\n0\r\n\r\n"))
    got = fetcher.fetch(at("public.test", server), connection_options=http2)
    assert got.path.read_bytes() == b"song"


def test_connection_that_is_reset(server: SourceServer, http2: ConnectionOptions, fetcher: Fetcher) -> None:
    server.otherwise(reset_after(SONG, 1000))
    with pytest.raises(TransientError):
        fetcher.fetch(at("public.test", server), connection_options=http2)
    assert list(fetcher.folder.iterdir()) == []


@pytest.mark.parametrize("version", ["2", "3"])
def test_refused_connection(version: HttpVersion, http2: ConnectionOptions, fetcher: Fetcher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    options = replace(http2, http=version)
    fetcher.fail(
        f"https://public.test:{port}/", TransientError, ErrorCode.SOURCE_UNAVAILABLE, connection_options=options
    )


@pytest.mark.parametrize("url", ["https://127.0.0.1/", "https://inside.test/", "https://public.test:22/"])
def test_forbidden_url_never_reaches_libcurl(
    url: str, http2: ConnectionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.download.http.curl_adapter.Curl", lambda: pytest.fail("a transfer was made"))
    names = Names({"inside.test": [["127.0.0.1"]], "public.test": [[PUBLIC]]})
    subject = Fetcher(tmp_path, UrlGuard(False, resolver=names))
    subject.fail(url, PermanentError, ErrorCode.URL_FORBIDDEN, connection_options=http2)


def test_each_request_connects_to_the_addresses_of_its_own_check(
    server: SourceServer, http2: ConnectionOptions, tmp_path: Path
) -> None:
    """A name that changes its address between two requests, the second of which is forbidden."""
    names = Names({"rebind.test": [["127.0.0.1"], ["169.254.169.254"]]})
    server.otherwise(redirect("/again"))
    subject = Fetcher(tmp_path, UrlGuard(True, resolver=names))
    subject.fail(at("rebind.test", server), PermanentError, ErrorCode.URL_FORBIDDEN, connection_options=http2)
    assert names.asked == ["rebind.test", "rebind.test"]
    assert len(server.requests) == 1


@pytest.mark.parametrize("version", ["2", "3"])
def test_libcurl_sends_no_dns_query(
    version: HttpVersion,
    certificate: trustme.LeafCert,
    http2: ConnectionOptions,
    fetcher: Fetcher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not even for the HTTPS record of a name, whose answer would bypass the guard."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as name_server, ExitStack() as stack:
        name_server.bind(("127.0.0.1", 0))
        name_server.setblocking(False)
        original = CurlAdapter._curl_options
        servers = f"127.0.0.1:{name_server.getsockname()[1]}"
        monkeypatch.setattr(
            CurlAdapter, "_curl_options", lambda *args: original(*args) | {CurlOpt.DNS_SERVERS: servers}
        )
        options = replace(http2, http=version)
        server: Http2Server | Http3Server
        if version == "2":
            server = stack.enter_context(Http2Server(certificate, SONG))
        else:
            server = stack.enter_context(Http3Server(certificate, file_response(SONG)))
        fetcher.fetch(f"https://public.test:{server.port}/", connection_options=options)
        with pytest.raises(BlockingIOError):
            name_server.recv(512)


def test_next_address_is_tried(server: SourceServer, http2: ConnectionOptions, tmp_path: Path) -> None:
    server.otherwise(content(SONG))
    names = Names({"two.test": [["::1", "127.0.0.1"]]})
    subject = Fetcher(tmp_path, UrlGuard(True, resolver=names))
    subject.fetch(at("two.test", server), connection_options=http2)
    assert names.asked == ["two.test"]


@pytest.mark.parametrize("host", ["public.test", "other.test"])
def test_certificates_are_verified(
    host: str, secure_server: SourceServer, http2: ConnectionOptions, fetcher: Fetcher
) -> None:
    trusting = http2 if host == "other.test" else replace(http2, ca_bundle=None)
    url = at(host, secure_server)
    fetcher.fail(url, PermanentError, ErrorCode.SOURCE_REFUSED, connection_options=trusting)
    assert secure_server.requests == []


def test_minimum_tls_version(certificate: trustme.LeafCert, http2: ConnectionOptions, fetcher: Fetcher) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with SourceServer(tls=context) as server:
        server.otherwise(content(SONG))
        fetcher.fetch(at("public.test", server), connection_options=http2)
        with pytest.raises(PipelineError):
            fetcher.fetch(at("public.test", server), connection_options=replace(http2, minimum_tls="1.3"))
        assert len(server.requests) == 1


def test_cancellation_ends_the_transfer(server: SourceServer, http2: ConnectionOptions, fetcher: Fetcher) -> None:
    def cancel(exchange: Exchange) -> None:
        fetcher.cancel.cancel(ErrorCode.SHUTTING_DOWN)
        exchange.hold()

    server.otherwise(cancel)
    started = time.monotonic()
    fetcher.fail(at("public.test", server), CancelledError, ErrorCode.SHUTTING_DOWN, connection_options=http2)
    assert time.monotonic() - started < 1.0


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_settings_of_the_machine_are_ignored(
    secure: bool,
    certificate: trustme.LeafCert,
    server: SourceServer,
    http3: ConnectionOptions,
    fetcher: Fetcher,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Proxies of the environment, .curlrc and .netrc."""
    home = tmp_path_factory.mktemp("home")
    (home / ".curlrc").write_text('proxy = "http://127.0.0.1:9"\nuser-agent = "other"\n')
    (home / ".netrc").write_text("machine public.test login user password secret\n")
    monkeypatch.setenv("HOME", str(home))
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server.otherwise(content(SONG))
    with ExitStack() as stack:
        if secure:
            http3_server = stack.enter_context(Http3Server(certificate, file_response(SONG)))
            fetcher.fetch(f"https://public.test:{http3_server.port}/", connection_options=http3)
            headers: Any = http3_server.requests[0]
        else:
            fetcher.fetch(at("public.test", server), connection_options=http3)
            headers = server.requests[0].headers
    assert headers["user-agent"] == "uvr-api"
    assert "authorization" not in headers


def test_cookies_are_not_sent_back(server: SourceServer, http2: ConnectionOptions) -> None:
    server.otherwise(content(SONG, headers={"Set-Cookie": "id=1"}))
    with session_for(http2) as session:
        for _ in range(2):
            assert session.get(at("public.test", server), stream=True).raw.read() == SONG
    assert [request.headers.get("cookie") for request in server.requests] == [None, None]


@pytest.mark.parametrize("version", ["2", "3"])
def test_missing_package_is_reported_at_the_start(version: HttpVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = DownloadSettings(http_version=version)
    assert ConnectionOptions.from_settings(settings).http == version
    monkeypatch.setitem(sys.modules, "curl_cffi", None)
    with pytest.raises(ConfigError, match=f"DOWNLOAD_HTTP={version} needs the optional package curl_cffi.*http3.lock"):
        ConnectionOptions.from_settings(settings)
    with pytest.raises(ConfigError):
        require_curl_cffi(version)
