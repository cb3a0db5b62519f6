"""Progress of downloads in the log, in the metrics, and for the listener."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pipeline.cancellation import CancelToken
from pipeline.download import Downloaded, DownloadLimits, DownloadProgress, UrlGuard, download
from pipeline.download_progress import WatchedDownload, watch_download
from pipeline.errors import ErrorCode, PermanentError
from pipeline.progress import TransferRate
from pipeline.service.metrics import REGISTRY
from tests.support.source_server import Exchange, SourceServer

MB = 10**6


def value(name: str, what: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"uvr_download{name}", {"what": what, **labels}) or 0.0


@pytest.fixture
def what(request: pytest.FixtureRequest) -> str:
    """Return a label that no other test uses."""
    return str(request.node.name)


def test_rate_and_remaining_time_are_those_of_the_last_interval(what: str) -> None:
    reported: list[tuple[float, TransferRate]] = []
    transfer = WatchedDownload(what, lambda fraction, rate: reported.append((fraction, rate)))
    transfer.progress(DownloadProgress(4 * MB, 16 * MB, 2.0))
    transfer.progress(DownloadProgress(12 * MB, 16 * MB, 4.0))
    assert reported == [(0.25, TransferRate(2.0 * MB, 6.0)), (0.75, TransferRate(4.0 * MB, 1.0))]


def test_stall_has_no_remaining_time(what: str) -> None:
    reported: list[TransferRate] = []
    transfer = WatchedDownload(what, lambda _, rate: reported.append(rate))
    for seconds in (2.0, 4.0):
        transfer.progress(DownloadProgress(MB, 2 * MB, seconds))
    assert reported[1] == TransferRate(0.0, None)


def test_source_without_a_length_has_a_rate(what: str) -> None:
    reported: list[tuple[float, TransferRate]] = []
    with capture_logs() as lines:
        WatchedDownload(what, lambda *rate: reported.append(rate)).progress(DownloadProgress(MB, None, 2.0))
    assert reported == [(0.0, TransferRate(0.5 * MB, None))]
    (line,) = lines
    assert (line["percent"], line["mb_per_second"], line["seconds_left"]) == (None, 0.5, None)


def test_each_report_but_the_last_is_one_line(what: str) -> None:
    """``download`` logs the end itself."""
    transfer = WatchedDownload(what)
    with capture_logs() as lines:
        for quarters in range(1, 5):
            transfer.progress(DownloadProgress(quarters * MB, 4 * MB, 2.0 * quarters))
    assert [line.pop("percent") for line in lines] == [25.0, 50.0, 75.0]
    assert lines[0] == {
        "event": "downloading",
        "log_level": "info",
        "what": what,
        "mb_per_second": 0.5,
        "seconds_left": 6.0,
    }


def test_bytes_are_counted_once_as_they_arrive(what: str) -> None:
    transfer = WatchedDownload(what)
    counted = []
    for received in (300, 700, 500, 900):  # a restart has discarded wrong bytes
        transfer.progress(DownloadProgress(received, 1000, 1.0))
        counted.append(value("_bytes_total", what))
    assert counted == [300, 700, 700, 1100]


def test_success_is_counted_with_its_totals(what: str) -> None:
    with watch_download(what) as transfer:
        transfer.progress(DownloadProgress(3 * MB, 8 * MB, 2.0))
        result = Downloaded(Path("x"), 8 * MB, None, None, None, 4.0, connections=4, resumed_bytes=2 * MB)
        assert transfer.done(result) is result
    assert value("s_total", what, outcome="success") == 1
    assert value("_bytes_total", what) == 8 * MB
    assert value("_resumed_bytes_total", what) == 2 * MB
    assert value("_bytes_per_second_sum", what) == 1.5 * MB
    assert (value("_connections_sum", what), value("_connections_count", what)) == (4, 1)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (PermanentError("gone", code=ErrorCode.SOURCE_NOT_FOUND), "source_not_found"),
        (KeyError("a defect"), "internal"),
    ],
)
def test_failure_is_counted_by_its_code(what: str, error: Exception, outcome: str) -> None:
    with pytest.raises(type(error)), watch_download(what):
        raise error
    assert value("s_total", what, outcome=outcome) == 1
    assert value("s_total", what, outcome="success") == 0
    assert value("_connections_count", what) == 0


@pytest.fixture
def server() -> Iterator[SourceServer]:
    with SourceServer() as server:
        yield server


def test_running_download_is_reported(what: str, server: SourceServer, tmp_path: Path) -> None:
    """The source sends the second half only after the first one was reported."""
    seen = threading.Event()
    half = bytes(100_000)

    def halting(exchange: Exchange) -> None:
        exchange.head(200, {"Content-Length": str(2 * len(half))})
        exchange.send(half)
        exchange.pause(0.05)
        exchange.send(half[:1])
        assert seen.wait(20)
        exchange.send(half[1:])

    server.add("/song", halting)
    limits = DownloadLimits(
        max_bytes=MB, connect_timeout=5, stall_timeout=20, total_timeout=30, progress_interval=0.01, max_connections=1
    )
    reported: list[float] = []

    def listener(fraction: float, rate: TransferRate) -> None:
        reported.append(fraction)
        seen.set()

    with watch_download(what, listener) as transfer:
        transfer.done(
            download(
                server.url("/song"),
                tmp_path / "song",
                guard=UrlGuard(allow_private=True),
                limits=limits,
                cancel=CancelToken(),
                on_progress=transfer.progress,
            )
        )
    assert 0 < reported[0] < 1
    assert reported[-1] == 1.0
    assert value("_bytes_total", what) == 2 * len(half)
