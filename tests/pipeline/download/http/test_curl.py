"""HTTP/2 by the program curl: the same guard, limits and errors as over HTTP/1.1."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import trustme

from config import ConfigError, DownloadSettings
from pipeline.download import ConnectionOptions, UrlGuard
from pipeline.download.http.curl import HttpVersion, require_curl
from pipeline.errors import CancelledError, ErrorCode, PermanentError, PipelineError, TransientError
from tests.pipeline.download.fetching import Fetcher
from tests.pipeline.download.http.http2_server import Http2Server
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


def _speaks(feature: str) -> bool:
    curl = shutil.which("curl")
    return curl is not None and feature in subprocess.run([curl, "--version"], capture_output=True, text=True).stdout


pytestmark = pytest.mark.skipif(not _speaks("HTTP2"), reason="this machine's curl does not speak HTTP/2")

LOOPBACK = Names({name: [["127.0.0.1"]] for name in ("public.test", "other.test")})


def curls() -> list[psutil.Process]:
    """The programs that are at work for this process."""
    return [child for child in psutil.Process().children() if child.name() == "curl"]


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    return Fetcher(tmp_path, UrlGuard(True, resolver=LOOPBACK))


@pytest.fixture
def connection_options(ca_bundle: Path) -> ConnectionOptions:
    return ConnectionOptions(ca_bundle=ca_bundle, http="2")


@pytest.fixture
def certificate(authority: trustme.CA) -> trustme.LeafCert:
    return authority.issue_cert("public.test")


def test_a_file_comes_over_http2(
    certificate: trustme.LeafCert, connection_options: ConnectionOptions, fetcher: Fetcher
) -> None:
    with Http2Server(certificate, SONG) as server:
        got = fetcher.fetch(f'https://public.test:{server.port}/a"bü?q=%22', connection_options=connection_options)
    assert got.path.read_bytes() == SONG
    assert (got.content_type, got.extension) == ("audio/wav", "wav")
    (request,) = server.requests
    assert request[":authority"] == f"public.test:{server.port}"
    assert request[":path"] == "/a%22b%C3%BC?q=%22"
    assert request["accept-encoding"] == "identity"


def test_a_stream_that_is_reset(
    certificate: trustme.LeafCert, connection_options: ConnectionOptions, fetcher: Fetcher
) -> None:
    with Http2Server(certificate, SONG, cut=1000) as server, pytest.raises(TransientError):
        fetcher.fetch(f"https://public.test:{server.port}/", connection_options=connection_options)
    assert list(fetcher.folder.iterdir()) == []


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
def test_faults(
    behaviour: Any,
    code: ErrorCode,
    limits: dict[str, Any],
    server: SourceServer,
    connection_options: ConnectionOptions,
    fetcher: Fetcher,
) -> None:
    server.otherwise(behaviour)
    url = server.url("/").replace("127.0.0.1", "public.test")
    fetcher.fail(url, PipelineError, code, connection_options=connection_options, **limits)
    assert curls() == []


def test_only_the_body_is_the_file(
    server: SourceServer, connection_options: ConnectionOptions, fetcher: Fetcher
) -> None:
    """Interim answers before it and trailers behind it are not, nor are headers in the body's own first lines."""
    body = b"HTTP/1.1 200 OK\r\n\r\nsong"
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
    server.otherwise(raw(early + head + b"%x\r\n%b\r\n0\r\nX-Sum: 1\r\n\r\n" % (len(body), body)))
    got = fetcher.fetch(server.url("/").replace("127.0.0.1", "public.test"), connection_options=connection_options)
    assert got.path.read_bytes() == body


def test_a_connection_that_is_reset(
    server: SourceServer, connection_options: ConnectionOptions, fetcher: Fetcher
) -> None:
    server.otherwise(reset_after(SONG, 1000))
    url = server.url("/").replace("127.0.0.1", "public.test")
    with pytest.raises(TransientError):
        fetcher.fetch(url, connection_options=connection_options)
    assert list(fetcher.folder.iterdir()) == []


def test_a_refused_connection(connection_options: ConnectionOptions, fetcher: Fetcher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    fetcher.fail(
        f"https://public.test:{port}/",
        TransientError,
        ErrorCode.SOURCE_UNAVAILABLE,
        connection_options=connection_options,
    )


@pytest.mark.parametrize("url", ["https://127.0.0.1/", "https://inside.test/", "https://public.test:22/"])
def test_curl_is_not_asked_for_what_the_guard_refuses(
    url: str, connection_options: ConnectionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    names = Names({"inside.test": [["127.0.0.1"]], "public.test": [[PUBLIC]]})
    subject = Fetcher(tmp_path, UrlGuard(False, resolver=names))
    subject.fail(url, PermanentError, ErrorCode.URL_FORBIDDEN, connection_options=connection_options)


def test_the_next_address_is_tried(server: SourceServer, connection_options: ConnectionOptions, tmp_path: Path) -> None:
    server.otherwise(content(SONG))
    names = Names({"two.test": [["::1", "127.0.0.1"]]})
    subject = Fetcher(tmp_path, UrlGuard(True, resolver=names))
    subject.fetch(server.url("/").replace("127.0.0.1", "two.test"), connection_options=connection_options)
    assert names.asked == ["two.test"]


@pytest.mark.parametrize("host", ["public.test", "other.test"])
def test_certificates_are_verified(
    host: str, secure_server: SourceServer, connection_options: ConnectionOptions, fetcher: Fetcher
) -> None:
    url = secure_server.url("/").replace("127.0.0.1", host)
    trusting = connection_options if host == "other.test" else replace(connection_options, ca_bundle=None)
    fetcher.fail(url, PermanentError, ErrorCode.SOURCE_REFUSED, connection_options=trusting)
    assert secure_server.requests == []


def test_the_oldest_tls(certificate: trustme.LeafCert, connection_options: ConnectionOptions, fetcher: Fetcher) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with SourceServer(tls=context) as server:
        server.otherwise(content(SONG))
        url = server.url("/").replace("127.0.0.1", "public.test")
        fetcher.fetch(url, connection_options=connection_options)
        with pytest.raises(PipelineError):
            fetcher.fetch(url, connection_options=replace(connection_options, minimum_tls="1.3"))
        assert len(server.requests) == 1


def test_a_cancel_ends_the_program(
    server: SourceServer, connection_options: ConnectionOptions, fetcher: Fetcher
) -> None:
    def cancel(exchange: Exchange) -> None:
        fetcher.cancel.cancel(ErrorCode.SHUTTING_DOWN)
        exchange.hold()

    server.otherwise(cancel)
    url = server.url("/").replace("127.0.0.1", "public.test")
    fetcher.fail(url, CancelledError, ErrorCode.SHUTTING_DOWN, connection_options=connection_options)
    assert curls() == []


def test_nothing_secret_is_among_its_arguments(
    server: SourceServer, connection_options: ConnectionOptions, fetcher: Fetcher
) -> None:
    arguments: list[str] = []

    def look(exchange: Exchange) -> None:
        arguments.extend(word for child in curls() for word in child.cmdline())
        exchange.respond(200, SONG)

    server.otherwise(look)
    fetcher.fetch(
        server.url("/song?X-Amz-Signature=secret").replace("127.0.0.1", "public.test"),
        connection_options=connection_options,
    )
    assert "--config" in arguments
    assert not [word for word in arguments if "secret" in word or "public.test" in word]


def test_settings_of_the_machine_are_not_read(
    server: SourceServer,
    connection_options: ConnectionOptions,
    fetcher: Fetcher,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = tmp_path_factory.mktemp("home")
    (home / ".curlrc").write_text('proxy = "http://127.0.0.1:9"\nuser-agent = "other"\n')
    monkeypatch.setenv("HOME", str(home))
    for name in ("http_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server.otherwise(content(SONG))
    fetcher.fetch(server.url("/").replace("127.0.0.1", "public.test"), connection_options=connection_options)
    assert server.requests[0].headers["user-agent"] == "uvr-api"


def test_a_program_that_has_gone_meanwhile(
    server: SourceServer,
    connection_options: ConnectionOptions,
    fetcher: Fetcher,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("empty")))
    monkeypatch.setattr("os.defpath", "")
    url = server.url("/").replace("127.0.0.1", "public.test")
    fetcher.fail(url, TransientError, ErrorCode.SOURCE_UNAVAILABLE, connection_options=connection_options)


@pytest.mark.parametrize("version", ["2", "3"])
def test_a_machine_without_it_says_so_at_the_start(
    version: HttpVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=f"DOWNLOAD_HTTP={version} needs"):
        require_curl(version)
    curl = tmp_path / "curl"
    curl.write_text("#!/bin/sh\necho 'Features: alt-svc IPv6 SSL'\n")
    curl.chmod(0o755)
    with pytest.raises(ConfigError):
        ConnectionOptions.from_settings(DownloadSettings(http_version=version))
    curl.write_text("#!/bin/sh\necho 'Features: alt-svc HTTP2 HTTP3 SSL'\n")
    assert ConnectionOptions.from_settings(DownloadSettings(http_version=version)).http == version
