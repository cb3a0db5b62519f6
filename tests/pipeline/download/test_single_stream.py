"""One file over one connection: complete, or the right error and no file."""

from __future__ import annotations

import os
import random
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from config import DownloadSettings
from pipeline.cancellation import CancelToken
from pipeline.download import DownloadLimits, DownloadProgress
from pipeline.errors import (
    CancelledError,
    ErrorCode,
    InfrastructureError,
    PermanentError,
    PipelineError,
    TransientError,
)
from tests.pipeline.download.fetching import LIMITS, Fetcher
from tests.support.source_server import (
    Behaviour,
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
    gzip_bomb,
    http_date,
    many_headers,
    raw,
    redirect,
    reset_after,
    sequence,
    silence,
    stall_after,
)

SONG = random.Random(1).randbytes(3_000_001)


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    return Fetcher(tmp_path)


def assert_song(fetcher: Fetcher) -> None:
    """Check that the complete song is the only entry of the folder."""
    (path,) = fetcher.folder.iterdir()
    assert path.read_bytes() == SONG


def test_complete_file(server: SourceServer, fetcher: Fetcher) -> None:
    server.serve_bytes("/a/Song.WAV", SONG, "Audio/WAV; charset=binary")
    got = fetcher.fetch(server.url("/a/Song.WAV?token=secret"))
    assert_song(fetcher)
    assert (got.path, got.bytes) == (fetcher.folder / "audio", len(SONG))
    assert (got.sha256, got.connections, got.resumed_bytes) == (None, 1, 0)
    assert got.source == server.url("/a/Song.WAV")
    assert (got.content_type, got.extension) == ("audio/wav", "wav")
    (request,) = server.requests
    assert request.target == "/a/Song.WAV?token=secret"
    assert request.headers["accept-encoding"] == "identity"
    assert not {"authorization", "cookie", "referer"} & request.headers.keys()


def test_ipv6(fetcher: Fetcher) -> None:
    with SourceServer("::1") as server:
        server.serve_bytes("/song", SONG)
        fetcher.fetch(server.url("/song"))
        assert server.requests[0].headers["host"] == f"[::1]:{server.port}"
    assert_song(fetcher)


def test_older_file_is_replaced_only_by_a_complete_one(server: SourceServer, fetcher: Fetcher) -> None:
    (fetcher.folder / "audio").write_bytes(b"old")
    server.add("/song", sequence(reset_after(SONG, 1000), content(SONG)))
    with pytest.raises(TransientError):
        fetcher.fetch(server.url("/song"))
    assert (fetcher.folder / "audio").read_bytes() == b"old"
    fetcher.fetch(server.url("/song"))
    assert_song(fetcher)


@pytest.mark.parametrize(
    "behaviour",
    [
        chunked(SONG[:5], SONG[5:1_000_000], SONG[1_000_000:]),
        raw(b"HTTP/1.0 200 OK\r\n\r\n" + SONG),
        announced(SONG, len(SONG), len(SONG)),
        announced(SONG, f"{len(SONG)}, {len(SONG)}"),
        announced(SONG + b"more than was announced", len(SONG)),
        raw(
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: Chunked\r\n\r\n2DC6C1\r\n"
            + SONG
            + b"\r\n0\r\n\r\n"
        ),
        answer(203, body=SONG),
    ],
    ids=["chunked", "until the end", "lengths agree", "lengths agree in one line", "too much", "both framings", "203"],
)
def test_valid_framings_are_accepted(behaviour: Behaviour, server: SourceServer, fetcher: Fetcher) -> None:
    server.add("/song", behaviour)
    fetcher.fetch(server.url("/song"))
    assert_song(fetcher)


def test_connections_are_not_reused(server: SourceServer, fetcher: Fetcher) -> None:
    """A server that sends more than it announced could otherwise answer a request before it is sent."""
    server.add(
        "/a", raw(b"HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\nfalse")
    )
    server.serve_bytes("/b", SONG)
    fetcher.fetch(server.url("/a"))
    assert_song(fetcher)
    assert server.connections == 2
    assert {request.headers["connection"] for request in server.requests} == {"close"}


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (404, PermanentError, ErrorCode.SOURCE_NOT_FOUND),
        (410, PermanentError, ErrorCode.SOURCE_NOT_FOUND),
        (400, PermanentError, ErrorCode.SOURCE_REFUSED),
        (401, PermanentError, ErrorCode.SOURCE_REFUSED),
        (403, PermanentError, ErrorCode.SOURCE_REFUSED),
        (451, PermanentError, ErrorCode.SOURCE_REFUSED),
        (408, TransientError, ErrorCode.SOURCE_UNAVAILABLE),
        (425, TransientError, ErrorCode.SOURCE_UNAVAILABLE),
        (429, TransientError, ErrorCode.SOURCE_UNAVAILABLE),
        (500, TransientError, ErrorCode.SOURCE_UNAVAILABLE),
        (503, TransientError, ErrorCode.SOURCE_UNAVAILABLE),
        (599, TransientError, ErrorCode.SOURCE_UNAVAILABLE),
        (204, PermanentError, ErrorCode.AUDIO_EMPTY),
        (205, PermanentError, ErrorCode.AUDIO_EMPTY),
        (202, PermanentError, ErrorCode.SOURCE_PROTOCOL),
        (206, PermanentError, ErrorCode.SOURCE_PROTOCOL),
        (300, PermanentError, ErrorCode.SOURCE_PROTOCOL),
        (304, PermanentError, ErrorCode.SOURCE_PROTOCOL),
        (600, PermanentError, ErrorCode.SOURCE_PROTOCOL),
    ],
)
def test_statuses(
    status: int, kind: type[PipelineError], code: ErrorCode, server: SourceServer, fetcher: Fetcher
) -> None:
    server.add("/song", answer(status, body=b"" if status in (204, 304) else b"<html>sorry</html>"))
    error = fetcher.fail(server.url("/song?token=secret"), kind, code)
    assert code is ErrorCode.AUDIO_EMPTY or str(status) in error.message
    assert server.url("/song") in error.message


def test_next_attempt_succeeds_after_a_transient_error(server: SourceServer, fetcher: Fetcher) -> None:
    server.add("/song", sequence(answer(503, {"Retry-After": "7"}), content(SONG)))
    error = fetcher.fail(server.url("/song"), TransientError, ErrorCode.SOURCE_UNAVAILABLE)
    assert isinstance(error, TransientError)
    assert error.retry_after == 7
    fetcher.fetch(server.url("/song"))
    assert_song(fetcher)


def test_retry_after_as_a_date(server: SourceServer, fetcher: Fetcher) -> None:
    server.add("/song", answer(429, {"Retry-After": http_date(in_seconds=100)}))
    error = fetcher.fail(server.url("/song"), TransientError, ErrorCode.SOURCE_UNAVAILABLE)
    assert isinstance(error, TransientError)
    assert error.retry_after is not None
    assert 50 < error.retry_after <= 100


@pytest.mark.parametrize(
    ("behaviour", "kind", "code"),
    [
        (answer(200), PermanentError, ErrorCode.AUDIO_EMPTY),
        (chunked(), PermanentError, ErrorCode.AUDIO_EMPTY),
        (announced(SONG, len(SONG) + 1000), TransientError, ErrorCode.SOURCE_INCOMPLETE),
        (announced(b"", 10), TransientError, ErrorCode.SOURCE_INCOMPLETE),
        (chunked(SONG, finished=False), TransientError, ErrorCode.SOURCE_INCOMPLETE),
        (announced(SONG, 0, len(SONG)), PermanentError, ErrorCode.SOURCE_PROTOCOL),
        (announced(SONG, len(SONG), f"0{len(SONG)}"), PermanentError, ErrorCode.SOURCE_PROTOCOL),
        (announced(SONG, -1), PermanentError, ErrorCode.SOURCE_PROTOCOL),
        (announced(SONG, f"{len(SONG):_}"), PermanentError, ErrorCode.SOURCE_PROTOCOL),
        (announced(SONG, f"+{len(SONG)}"), PermanentError, ErrorCode.SOURCE_PROTOCOL),
        (announced(SONG, "many"), PermanentError, ErrorCode.SOURCE_PROTOCOL),
        (announced(SONG, ""), PermanentError, ErrorCode.SOURCE_PROTOCOL),
        (gzip_bomb(64), PermanentError, ErrorCode.SOURCE_PROTOCOL),
        (content(SONG, headers={"Content-Encoding": "identity, br"}), PermanentError, ErrorCode.SOURCE_PROTOCOL),
        (announced(SONG, headers={"Transfer-Encoding": "gzip, chunked"}), PermanentError, ErrorCode.SOURCE_PROTOCOL),
        (many_headers(100_000), TransientError, ErrorCode.SOURCE_PROTOCOL),
        (raw(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 100_000), TransientError, ErrorCode.SOURCE_PROTOCOL),
        (raw(b"SSH-2.0-OpenSSH_9.6\r\n"), TransientError, ErrorCode.SOURCE_PROTOCOL),
        (
            raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"),
            TransientError,
            ErrorCode.SOURCE_INCOMPLETE,
        ),
        (raw(b""), TransientError, ErrorCode.SOURCE_UNAVAILABLE),
        (reset_after(SONG, 0), TransientError, ErrorCode.SOURCE_UNAVAILABLE),
        (reset_after(SONG, 2_000_000), TransientError, ErrorCode.SOURCE_UNAVAILABLE),
        (lambda exchange: exchange.reset(), TransientError, ErrorCode.SOURCE_UNAVAILABLE),
    ],
    ids=[
        *("empty", "empty chunked", "length too large", "length without a body", "chunks without end", "two lengths"),
        "two spellings of a length",
        *("negative length", "length with underscores", "length with sign", "length in words", "empty length"),
        *("gzip bomb", "brotli", "compressed transfer", "many headers", "endless header", "not HTTP", "bad chunk"),
        *("closed at once", "reset after head", "reset in the middle", "reset at once"),
    ],
)
def test_incomplete_or_invalid_responses(
    behaviour: Behaviour, kind: type[PipelineError], code: ErrorCode, server: SourceServer, fetcher: Fetcher
) -> None:
    server.add("/song", behaviour)
    fetcher.fail(server.url("/song?token=secret"), kind, code)


def test_file_of_exactly_the_maximum_size_is_accepted(server: SourceServer, fetcher: Fetcher) -> None:
    server.add("/announced", content(SONG))
    server.add("/chunked", chunked(SONG))
    for path in ("/announced", "/chunked"):
        fetcher.fetch(server.url(path), limits=replace(LIMITS, max_bytes=len(SONG)))
        assert_song(fetcher)


@pytest.mark.parametrize(
    "behaviour",
    [content(SONG), chunked(SONG), endless_body, announced(b"", 10**17)],
    ids=["announced", "chunked", "endless", "announced only"],
)
def test_file_that_is_too_large(behaviour: Behaviour, server: SourceServer, fetcher: Fetcher) -> None:
    server.add("/song", behaviour)
    fetcher.fail(
        server.url("/song"), PermanentError, ErrorCode.SOURCE_TOO_LARGE, max_bytes=len(SONG) - 1, chunk_bytes=65536
    )


def test_file_larger_than_the_free_disk_space_is_rejected(server: SourceServer, fetcher: Fetcher) -> None:
    server.add("/song", announced(b"", 10**17))
    fetcher.fail(server.url("/song"), InfrastructureError, ErrorCode.DISK_FULL, max_bytes=10**18)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("size", [10, len(SONG)], ids=["at the end", "in the middle"])
def test_disk_that_fills_up(size: int, server: SourceServer, fetcher: Fetcher) -> None:
    (fetcher.folder / "audio.part").symlink_to("/dev/full")
    server.add("/song", content(SONG[:size]))
    fetcher.fail(server.url("/song"), InfrastructureError, ErrorCode.DISK_FULL)


def test_missing_folder_is_a_storage_error(server: SourceServer, tmp_path: Path) -> None:
    server.add("/song", content(SONG))
    with pytest.raises(InfrastructureError) as caught:
        Fetcher(tmp_path / "missing").fetch(server.url("/song"))
    assert caught.value.code is ErrorCode.STORAGE_UNAVAILABLE
    assert "missing" not in caught.value.message


SLOW = {
    "silence": silence,
    "stall in the middle": stall_after(SONG, 100_000),
    "stall after the head": stall_after(SONG, 0),
    "drip": drip(SONG, 0.02),
    "dripped headers": drip_headers(0.02),
    "endless continue": endless_continue(0.02),
}


@pytest.mark.parametrize(
    ("slowness", "limit"),
    [
        (slowness, limit)
        for slowness in SLOW
        for limit in ("stall_timeout", "total_timeout")
        if (slowness, limit) != ("drip", "stall_timeout")
    ],
)
def test_deadlines(slowness: str, limit: str, server: SourceServer, fetcher: Fetcher) -> None:
    server.add("/song", SLOW[slowness])
    error = fetcher.fail(server.url("/song?token=secret"), TransientError, ErrorCode.SOURCE_TIMEOUT, **{limit: 0.4})
    expected = {"stall_timeout": "sent nothing for 0.4 s", "total_timeout": "did not finish within 0.4 s"}
    assert expected[limit] in error.message


def test_slow_download_is_not_a_stall(server: SourceServer, fetcher: Fetcher) -> None:
    """The download takes longer than the stall timeout, each byte less."""
    server.add("/song", drip(b"0123456789ABC", 0.1))
    got = fetcher.fetch(server.url("/song"), limits=replace(LIMITS, stall_timeout=1.0))
    assert got.path.read_bytes() == b"0123456789ABC"
    assert got.seconds > 1.0


def test_local_delays_do_not_count_as_a_stall(server: SourceServer, fetcher: Fetcher) -> None:
    server.add("/song", content(SONG))
    pause = threading.Event()
    limits = replace(LIMITS, stall_timeout=0.8, progress_interval=60)
    fetcher.fetch(server.url("/song"), limits=limits, on_progress=lambda _: pause.wait(1.2) and None)
    assert_song(fetcher)


@pytest.mark.parametrize("slowness", SLOW)
def test_cancel_ends_the_wait_for_a_source(slowness: str, server: SourceServer, fetcher: Fetcher) -> None:
    server.add("/song", SLOW[slowness])

    def cancel_after_request() -> None:
        server.wait_for_requests(1)
        fetcher.cancel.cancel(ErrorCode.SHUTTING_DOWN)

    canceller = threading.Thread(target=cancel_after_request)
    canceller.start()
    # The timeouts are far longer than the test may take, so only the cancel can end the download.
    fetcher.fail(server.url("/song"), CancelledError, ErrorCode.SHUTTING_DOWN, stall_timeout=600, total_timeout=600)
    canceller.join()


def test_cancel_during_a_fast_download(server: SourceServer, fetcher: Fetcher) -> None:
    server.add("/song", endless_body)
    fetcher.fail(
        server.url("/song"),
        CancelledError,
        ErrorCode.DELIVERY_LOST,
        max_bytes=10**15,
        progress_interval=0,
        on_progress=lambda _: fetcher.cancel.cancel(ErrorCode.DELIVERY_LOST),
    )


def test_cancel_after_the_last_byte(server: SourceServer, fetcher: Fetcher) -> None:
    server.add("/song", content(SONG))
    fetcher.fail(
        server.url("/song"),
        CancelledError,
        ErrorCode.SHUTTING_DOWN,
        progress_interval=60,
        on_progress=lambda _: fetcher.cancel.cancel(ErrorCode.SHUTTING_DOWN),
    )


def test_cancelled_job_opens_no_connection(server: SourceServer, tmp_path: Path) -> None:
    token = CancelToken()
    token.cancel(ErrorCode.SHUTTING_DOWN)
    Fetcher(tmp_path, cancel=token).fail(server.url("/song"), CancelledError, ErrorCode.SHUTTING_DOWN)
    assert server.requests == []


def test_progress_is_reported_during_and_after_the_download(server: SourceServer, fetcher: Fetcher) -> None:
    seen: list[DownloadProgress] = []
    server.add("/song", content(SONG))
    fetcher.fetch(
        server.url("/song"), limits=replace(LIMITS, progress_interval=0, chunk_bytes=65536), on_progress=seen.append
    )
    assert len(seen) > 10
    assert [progress.bytes for progress in seen] == sorted(progress.bytes for progress in seen)
    assert {progress.total for progress in seen} == {len(SONG)}
    assert (seen[-1].bytes, seen[-1].fraction, seen[-1].seconds_left) == (len(SONG), 1.0, 0.0)
    assert seen[-1].bytes_per_second > 0


def test_progress_is_throttled(server: SourceServer, fetcher: Fetcher) -> None:
    seen: list[DownloadProgress] = []
    server.add("/song", chunked(*(SONG[i : i + 100_000] for i in range(0, len(SONG), 100_000))))
    fetcher.fetch(server.url("/song"), limits=replace(LIMITS, progress_interval=60), on_progress=seen.append)
    (last,) = seen
    assert (last.bytes, last.total, last.fraction, last.seconds_left) == (len(SONG), None, None, None)


def test_error_of_the_listener_ends_the_download(server: SourceServer, fetcher: Fetcher) -> None:
    server.add("/song", content(SONG))

    def fail(_: DownloadProgress) -> None:
        raise OSError("broker down")

    with pytest.raises(OSError, match="broker down"):
        fetcher.fetch(server.url("/song"), on_progress=fail)
    assert list(fetcher.folder.iterdir()) == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(status: int, server: SourceServer, fetcher: Fetcher) -> None:
    server.add("/start", redirect("/sub/next?signature=1", status))
    server.add("/sub/next", redirect("song.flac", status))
    server.serve_bytes("/sub/song.flac", SONG)
    assert fetcher.fetch(server.url("/start")).extension == "flac"
    assert_song(fetcher)
    assert [request.method for request in server.requests] == ["GET"] * 3


def test_redirects_carry_no_cookies_or_credentials(server: SourceServer, fetcher: Fetcher) -> None:
    server.add("/start", answer(302, {"Location": "/song", "Set-Cookie": "session=secret; Path=/"}))
    server.serve_bytes("/song", SONG)
    fetcher.fetch(server.url("/start"))
    assert not {"cookie", "referer", "authorization"} & server.requests[-1].headers.keys()


def test_at_most_five_redirects_are_followed(server: SourceServer, fetcher: Fetcher) -> None:
    for hop in range(6):
        server.add(f"/{hop}", redirect(f"/{hop + 1}"))
    server.serve_bytes("/6", SONG)
    fetcher.fail(server.url("/0"), PermanentError, ErrorCode.SOURCE_REFUSED)
    assert len(server.requests) == 6
    fetcher.fetch(server.url("/1"))
    assert_song(fetcher)


def test_unencoded_locations_are_utf_8(server: SourceServer, fetcher: Fetcher) -> None:
    server.add("/start", raw("HTTP/1.1 302 Found\r\nLocation: /für\r\n\r\n".encode()))
    server.serve_bytes("/f%C3%BCr", SONG)
    fetcher.fetch(server.url("/start"))
    assert_song(fetcher)


@pytest.mark.parametrize(
    "location",
    ["http://169.254.169.254/", "file:///etc/passwd", "//[::]/", "/\\x", "http://u:p@127.0.0.1/", "gopher://x/"],
)
def test_redirects_to_forbidden_urls(location: str, server: SourceServer, fetcher: Fetcher) -> None:
    server.add("/start", redirect(location))
    fetcher.fail(server.url("/start"), PermanentError, ErrorCode.URL_FORBIDDEN)
    assert server.connections == 1


def test_redirect_without_a_location_is_rejected(server: SourceServer, fetcher: Fetcher) -> None:
    server.add("/start", answer(302))
    fetcher.fail(server.url("/start"), PermanentError, ErrorCode.SOURCE_PROTOCOL)


@pytest.mark.parametrize(
    ("path", "content_type", "headers", "extension"),
    [
        ("/a.flac", "text/html", {}, "flac"),
        ("/a", "audio/mpeg", {}, "mp3"),
        ("/a.php", "video/mp4", {}, "mp4"),
        ("/a.wav%00.sh", "application/x-sh", {}, None),
        ("/a.wav/..%2f..%2fetc", "", {}, None),
        ("/a", "../../etc/cron.d", {"Content-Disposition": 'attachment; filename="../../etc/cron.d/x.wav"'}, None),
    ],
)
def test_extension_comes_from_a_fixed_list(
    path: str,
    content_type: str,
    headers: dict[str, str],
    extension: str | None,
    server: SourceServer,
    fetcher: Fetcher,
) -> None:
    server.otherwise(content(SONG, content_type, headers))
    got = fetcher.fetch(server.url(path))
    assert got.extension == extension
    assert_song(fetcher)


def test_invalid_url_is_rejected_without_a_request(fetcher: Fetcher) -> None:
    fetcher.fail("http://user:secret@127.0.0.1/", PermanentError, ErrorCode.URL_INVALID)


def test_limits_come_from_the_settings() -> None:
    settings = DownloadSettings(
        MAX_AUDIO_BYTES=1,
        DOWNLOAD_CONNECT_TIMEOUT=2,
        DOWNLOAD_STALL_TIMEOUT=3,
        DOWNLOAD_TIMEOUT=4,
        DOWNLOAD_CHUNK_BYTES=5,
        DOWNLOAD_CONNECTIONS=6,
    )
    assert DownloadLimits.from_settings(settings) == DownloadLimits(1, 2, 3, 4, 5, max_connections=6)


def test_interim_responses_are_skipped(server: SourceServer, fetcher: Fetcher) -> None:
    """RFC 9110 section 15.2: a client must be able to parse any number of them."""

    def hint(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 102 Processing\r\n\r\n" * 3)
        exchange.send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\nContent-Length: 5\r\n\r\n")
        exchange.respond(200, SONG)

    server.add("/song", hint)
    assert fetcher.fetch(server.url("/song")).path.read_bytes() == SONG


def test_many_headers_are_read(server: SourceServer, fetcher: Fetcher) -> None:
    server.add("/song", lambda exchange: exchange.respond(200, SONG, headers={f"X-Trace-{n}": "1" for n in range(300)}))
    assert fetcher.fetch(server.url("/song")).path.read_bytes() == SONG
