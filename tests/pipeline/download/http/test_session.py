"""Connections go to the checked address, keep the name for everything else, and have no bypass."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
import requests
import trustme

from pipeline.cancellation import CancelToken
from pipeline.download import ConnectionOptions, UrlGuard, Watchdog, guarded_session, http_errors
from pipeline.download.http.session import GuardedSession, dial_tcp
from pipeline.download.ssrf.ip_ranges import Address
from pipeline.errors import CancelledError, ErrorCode, PermanentError, TransientError
from tests.pipeline.download.fetching import Fetcher
from tests.pipeline.download.network import PUBLIC, PUBLIC_6, Detour, Names
from tests.support.source_server import SourceServer, answer, content, endless_body, redirect, silence

SONG = b"a song"


def fetcher(folder: Path, **names: list[list[str]]) -> Fetcher:
    return Fetcher(folder, UrlGuard(False, resolver=Names({f"{name}.test": names[name] for name in names})))


def session(server: SourceServer, **names: list[list[str]]) -> GuardedSession:
    resolver = Names({f"{name}.test": names[name] for name in names})
    guard = UrlGuard(False, resolver=resolver)
    return guarded_session(
        guard, connect_timeout=5, read_timeout=5, connection_options=ConnectionOptions(Detour({80: server}))
    )


@pytest.fixture
def canary() -> Iterator[SourceServer]:
    """A server that must not receive a connection."""
    with SourceServer() as running:
        running.otherwise(content(b"secret"))
        yield running
        assert running.connections == 0


def test_name_is_resolved_once_and_its_address_dialled(server: SourceServer, tmp_path: Path) -> None:
    server.serve_bytes("/song", SONG)
    names, detour = Names({"public.test": [[PUBLIC]]}), Detour({80: server})
    Fetcher(tmp_path, UrlGuard(False, resolver=names)).fetch(
        "http://public.test/song", connection_options=ConnectionOptions(detour)
    )
    assert names.asked == ["public.test"]
    assert detour.dialled == [PUBLIC]
    assert server.requests[0].headers["host"] == "public.test"


def test_connection_made_ahead_is_used_once_and_only_by_its_host(server: SourceServer) -> None:
    server.serve_bytes("/song", SONG)
    with session(server, public=[[PUBLIC]], other=[[PUBLIC]]) as subject:
        subject.connect_ahead("public.test", 80)
        subject.get("http://other.test/song")
        assert server.connections == 2
        subject.get("http://public.test/song")
        assert server.connections == 2
        subject.get("http://public.test/song", headers={"Connection": "close"})
        subject.get("http://public.test/song")
        assert server.connections == 3


def test_no_connection_is_made_ahead_to_a_forbidden_address(server: SourceServer) -> None:
    with session(server, inner=[["10.0.0.1"]]) as subject, pytest.raises(PermanentError):
        subject.connect_ahead("inner.test", 80)
    assert server.connections == 0


@pytest.mark.parametrize("second", ["127.0.0.1", "::1", "169.254.169.254", "10.0.0.1"])
def test_rebinding_between_the_first_check_and_the_connection(
    second: str, server: SourceServer, tmp_path: Path
) -> None:
    subject, detour = fetcher(tmp_path, rebind=[[PUBLIC], [second]]), Detour({80: server})
    subject.guard.check("http://rebind.test/")
    subject.fail(
        "http://rebind.test/", PermanentError, ErrorCode.URL_FORBIDDEN, connection_options=ConnectionOptions(detour)
    )
    assert detour.dialled == []


def test_rebinding_between_two_hops(server: SourceServer, tmp_path: Path) -> None:
    server.add("/start", redirect("http://rebind.test/song"))
    server.serve_bytes("/song", b"secret")
    subject, detour = fetcher(tmp_path, rebind=[[PUBLIC], ["127.0.0.1"]]), Detour({80: server})
    subject.fail(
        "http://rebind.test/start",
        PermanentError,
        ErrorCode.URL_FORBIDDEN,
        connection_options=ConnectionOptions(detour),
    )
    assert detour.dialled == [PUBLIC]
    assert server.connections == 1


@pytest.mark.parametrize("answers", [[PUBLIC, "10.0.0.1"], ["::1", PUBLIC_6], [PUBLIC, "::ffff:127.0.0.1"]])
def test_one_forbidden_address_condemns_the_name(answers: list[str], server: SourceServer, tmp_path: Path) -> None:
    subject, detour = fetcher(tmp_path, mixed=[answers]), Detour({80: server})
    subject.fail(
        "http://mixed.test/", PermanentError, ErrorCode.URL_FORBIDDEN, connection_options=ConnectionOptions(detour)
    )
    assert detour.dialled == []


def test_proxies_from_the_environment_are_ignored(
    server: SourceServer, canary: SourceServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, canary.url(""))
    server.serve_bytes("/song", SONG)
    connection_options = ConnectionOptions(Detour({80: server}))
    subject = fetcher(tmp_path, public=[[PUBLIC]], inside=[["10.0.0.1"]])
    assert subject.fetch("http://public.test/song", connection_options=connection_options).bytes == len(SONG)
    subject.folder.joinpath("audio").unlink()
    subject.fail(
        "http://inside.test/song", PermanentError, ErrorCode.URL_FORBIDDEN, connection_options=connection_options
    )
    assert server.requests[0].target == "/song"


def test_proxies_given_to_the_session_are_ignored(server: SourceServer, canary: SourceServer) -> None:
    server.serve_bytes("/song", SONG)
    with session(server, public=[[PUBLIC]]) as subject:
        subject.proxies = {"http": canary.url("")}
        assert subject.get("http://public.test/song", proxies={"http": canary.url("")}).content == SONG


def test_netrc_credentials_are_not_sent(server: SourceServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine public.test login user password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with session(server, public=[[PUBLIC]]) as subject:
        subject.get("http://public.test/")
    assert "authorization" not in server.requests[0].headers


def test_sessions_follow_no_redirect_and_keep_no_cookie(server: SourceServer, canary: SourceServer) -> None:
    server.otherwise(answer(307, {"Location": canary.url("/"), "Set-Cookie": "id=1; Path=/"}))
    with session(server, public=[[PUBLIC]]) as subject:
        for _ in range(2):
            answered = subject.post("http://public.test/hook", data=b"{}", allow_redirects=True)
            assert (answered.status_code, answered.history) == (307, [])
    assert [request.method for request in server.requests] == ["POST", "POST"]
    assert "cookie" not in server.requests[1].headers


@pytest.mark.parametrize("url", ["http://inside.test/", "http://127.0.0.1/", "http://public.test:22/"])
def test_sessions_connect_to_no_forbidden_address(url: str, server: SourceServer) -> None:
    with session(server, public=[[PUBLIC]], inside=[["10.0.0.1"]]) as subject:
        with pytest.raises(PermanentError) as caught:
            subject.post(url, data=b"{}")
        assert caught.value.code is ErrorCode.URL_FORBIDDEN
    assert server.connections == 0


@pytest.mark.parametrize("url", [" http://public.test/", b"http://public.test/\r\nX: y", "http://a@public.test/"])
def test_sessions_do_not_repair_urls(url: str | bytes, server: SourceServer) -> None:
    with session(server, public=[[PUBLIC]]) as subject, pytest.raises(PermanentError) as caught:
        subject.get(url)
    assert caught.value.code is ErrorCode.URL_INVALID
    assert server.connections == 0


def test_prepared_requests_are_guarded_as_well(server: SourceServer) -> None:
    with session(server) as subject, pytest.raises(PermanentError):
        subject.send(requests.Request("GET", "http://127.0.0.1/").prepare())
    assert server.connections == 0


def test_endless_response_can_be_closed_after_its_status(server: SourceServer) -> None:
    server.otherwise(endless_body)
    with session(server, public=[[PUBLIC]]) as subject, subject.post("http://public.test/", stream=True) as answered:
        assert answered.status_code == 200
        assert len(answered.raw.read1(16_384)) <= 16_384


def test_idle_connection_is_reused(server: SourceServer) -> None:
    server.otherwise(content(SONG))
    with session(server, public=[[PUBLIC]]) as subject:
        for _ in range(3):
            assert subject.get("http://public.test/").content == SONG
    assert server.connections == 1


def test_next_address_is_tried_after_a_refusal(server: SourceServer, tmp_path: Path) -> None:
    server.serve_bytes("/song", SONG)
    tried: list[str] = []

    def dial(address: Address, port: int, timeout: float) -> socket.socket:
        tried.append(str(address))
        if address.version == 6:
            raise ConnectionRefusedError
        return Detour({80: server})(address, port, timeout)

    subject = fetcher(tmp_path, two=[[PUBLIC_6, PUBLIC]])
    subject.fetch("http://two.test/song", connection_options=ConnectionOptions(dial))
    assert tried == [PUBLIC_6, PUBLIC]


def test_address_that_drops_packets_leaves_time_for_the_next(server: SourceServer, tmp_path: Path) -> None:
    given: list[float] = []

    def dial(address: Address, port: int, timeout: float) -> socket.socket:
        given.append(timeout)
        raise TimeoutError

    subject = fetcher(tmp_path, two=[[PUBLIC_6, PUBLIC]])
    subject.fail(
        "http://two.test/",
        TransientError,
        ErrorCode.SOURCE_TIMEOUT,
        connection_options=ConnectionOptions(dial),
        connect_timeout=10,
    )
    assert given[0] <= 5
    assert 5 < given[1] <= 10


def test_refused_connection(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    Fetcher(tmp_path).fail(f"http://127.0.0.1:{port}/", TransientError, ErrorCode.SOURCE_UNAVAILABLE)


def test_name_that_does_not_resolve(tmp_path: Path) -> None:
    error = fetcher(tmp_path).fail("http://nowhere.test/", PermanentError, ErrorCode.SOURCE_NOT_FOUND)
    assert "nowhere.test" in error.message


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    """An event at the end of the test, for a name server or an address that never answers."""
    released = threading.Event()
    yield released
    released.set()


def test_hanging_dns_times_out(hanging: threading.Event, tmp_path: Path) -> None:
    guard = UrlGuard(False, resolver=lambda *_, **__: [()] * hanging.wait(600))
    Fetcher(tmp_path, guard).fail("http://slow.test/", TransientError, ErrorCode.SOURCE_TIMEOUT, connect_timeout=0.2)


def test_cancellation_does_not_wait_for_the_dns(hanging: threading.Event, tmp_path: Path) -> None:
    asked = threading.Event()

    def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
        asked.set()
        return [()] * hanging.wait(600)

    subject = Fetcher(tmp_path, UrlGuard(False, resolver=resolve))

    def cancel_when_asked() -> None:
        asked.wait(20)
        subject.cancel.cancel(ErrorCode.SHUTTING_DOWN)

    canceller = threading.Thread(target=cancel_when_asked)
    canceller.start()
    subject.fail("http://slow.test/", CancelledError, ErrorCode.SHUTTING_DOWN, connect_timeout=600, total_timeout=600)
    canceller.join()


def test_late_connection_is_closed(server: SourceServer, hanging: threading.Event, tmp_path: Path) -> None:
    late: list[tuple[threading.Thread, socket.socket]] = []

    def dial(address: Address, port: int, timeout: float) -> socket.socket:
        hanging.wait(600)
        connection = Detour({80: server})(address, port, timeout)
        late.append((threading.current_thread(), connection))
        dialled.set()
        return connection

    dialled = threading.Event()
    subject = fetcher(tmp_path, public=[[PUBLIC]])
    subject.fail(
        "http://public.test/",
        TransientError,
        ErrorCode.SOURCE_TIMEOUT,
        connection_options=ConnectionOptions(dial),
        connect_timeout=0.2,
    )
    hanging.set()
    assert dialled.wait(20)
    ((dialler, connection),) = late
    dialler.join(20)
    assert connection.fileno() == -1


def test_tls_is_verified_for_the_name(secure_server: SourceServer, ca_bundle: Path, tmp_path: Path) -> None:
    secure_server.serve_bytes("/song", SONG)
    subject, detour = fetcher(tmp_path, public=[[PUBLIC]]), Detour({443: secure_server})
    subject.fetch("https://public.test/song", connection_options=ConnectionOptions(detour, ca_bundle))
    assert detour.dialled == [PUBLIC]


def test_certificate_for_another_name_is_refused(secure_server: SourceServer, ca_bundle: Path, tmp_path: Path) -> None:
    connection_options = ConnectionOptions(Detour({443: secure_server}), ca_bundle)
    subject = fetcher(tmp_path, other=[[PUBLIC]])
    subject.fail(
        "https://other.test/song", PermanentError, ErrorCode.SOURCE_REFUSED, connection_options=connection_options
    )
    assert secure_server.requests == []


def test_certificate_of_an_unknown_authority_is_refused(
    secure_server: SourceServer, ca_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The environment must not extend the trusted authorities.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca_bundle))
    connection_options = ConnectionOptions(Detour({443: secure_server}))
    subject = fetcher(tmp_path, public=[[PUBLIC]])
    subject.fail(
        "https://public.test/song", PermanentError, ErrorCode.SOURCE_REFUSED, connection_options=connection_options
    )


def test_server_without_tls(server: SourceServer, tmp_path: Path) -> None:
    server.otherwise(content(SONG))
    subject = fetcher(tmp_path, public=[[PUBLIC]])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_greet, args=(listener,), daemon=True).start()
        port = listener.getsockname()[1]
        connection_options = ConnectionOptions(
            lambda address, _, timeout: dial_tcp(ip_address("127.0.0.1"), port, timeout)
        )
        subject.fail(
            "https://public.test/song", TransientError, ErrorCode.SOURCE_PROTOCOL, connection_options=connection_options
        )


def _greet(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.sendall(b"220 mail.test ESMTP\r\n")
        connection.recv(65536)


@pytest.mark.parametrize("limit", ["stall_timeout", "total_timeout"])
def test_unanswered_tls_handshake(limit: str, tmp_path: Path) -> None:
    subject = fetcher(tmp_path, public=[[PUBLIC]])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        connection_options = ConnectionOptions(
            lambda address, _, timeout: dial_tcp(ip_address("127.0.0.1"), port, timeout)
        )
        subject.fail(
            "https://public.test/",
            TransientError,
            ErrorCode.SOURCE_TIMEOUT,
            connection_options=connection_options,
            **{limit: 0.3},
        )


@pytest.mark.parametrize("limit", ["stall_timeout", "total_timeout"])
def test_deadlines_fire_inside_tls(limit: str, secure_server: SourceServer, ca_bundle: Path, tmp_path: Path) -> None:
    secure_server.otherwise(silence)
    connection_options = ConnectionOptions(Detour({443: secure_server}), ca_bundle)
    subject = fetcher(tmp_path, public=[[PUBLIC]])
    subject.fail(
        "https://public.test/",
        TransientError,
        ErrorCode.SOURCE_TIMEOUT,
        connection_options=connection_options,
        **{limit: 0.5},
    )


def test_redirect_from_https_to_http_is_refused(
    server: SourceServer, secure_server: SourceServer, ca_bundle: Path, tmp_path: Path
) -> None:
    secure_server.otherwise(redirect("http://public.test/song"))
    connection_options = ConnectionOptions(Detour({80: server, 443: secure_server}), ca_bundle)
    subject = fetcher(tmp_path, public=[[PUBLIC]])
    subject.fail(
        "https://public.test/", PermanentError, ErrorCode.SOURCE_REFUSED, connection_options=connection_options
    )
    assert server.connections == 0


def test_redirect_from_http_to_https_is_followed(
    server: SourceServer, secure_server: SourceServer, ca_bundle: Path, tmp_path: Path
) -> None:
    server.otherwise(redirect("https://public.test/song"))
    secure_server.serve_bytes("/song", SONG)
    connection_options = ConnectionOptions(Detour({80: server, 443: secure_server}), ca_bundle)
    assert fetcher(tmp_path, public=[[PUBLIC]]).fetch(
        "http://public.test/", connection_options=connection_options
    ).bytes == len(SONG)


def test_watchdog_limits_a_webhook_request(server: SourceServer) -> None:
    server.otherwise(silence)
    guard = UrlGuard(False, resolver=Names({"public.test": [[PUBLIC]]}))
    with (
        Watchdog("the receiver", total=0.3, stall=10, cancel=CancelToken()) as watchdog,
        guarded_session(
            guard,
            connect_timeout=5,
            read_timeout=5,
            watchdog=watchdog,
            connection_options=ConnectionOptions(Detour({80: server})),
        ) as subject,
        pytest.raises(TransientError, match=r"the receiver did not finish within 0\.3 s"),
        http_errors("the receiver", watchdog),
    ):
        subject.post("http://public.test/hook", data=b"{}")


def test_server_name_is_sent_in_the_handshake(authority: trustme.CA, ca_bundle: Path, tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("public.test").configure_cert(context)
    named: list[str | None] = []
    context.sni_callback = lambda _connection, name, _outer: named.append(name)
    with SourceServer(tls=context) as running:
        running.serve_bytes("/song", SONG)
        connection_options = ConnectionOptions(Detour({443: running}), ca_bundle)
        fetcher(tmp_path, public=[[PUBLIC]]).fetch("https://public.test/song", connection_options=connection_options)
    assert named == ["public.test"]
