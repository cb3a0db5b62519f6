"""What is told of a download: to the log, to Prometheus, to the listener."""

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
    """A label that no other test counts under."""
    return str(request.node.name)


def test_rate_and_time_left_are_those_of_the_last_seconds(what: str) -> None:
    told: list[tuple[float, TransferRate]] = []
    transfer = WatchedDownload(what, lambda fraction, pace: told.append((fraction, pace)))
    transfer.progress(DownloadProgress(4 * MB, 16 * MB, 2.0))
    transfer.progress(DownloadProgress(12 * MB, 16 * MB, 4.0))
    assert told == [(0.25, TransferRate(2.0 * MB, 6.0)), (0.75, TransferRate(4.0 * MB, 1.0))]


def test_a_stall_has_no_end_in_sight(what: str) -> None:
    told: list[TransferRate] = []
    transfer = WatchedDownload(what, lambda _, pace: told.append(pace))
    for seconds in (2.0, 4.0):
        transfer.progress(DownloadProgress(MB, 2 * MB, seconds))
    assert told[1] == TransferRate(0.0, None)


def test_a_source_that_does_not_say_how_much_it_is_has_a_rate(what: str) -> None:
    told: list[tuple[float, TransferRate]] = []
    with capture_logs() as lines:
        WatchedDownload(what, lambda *pace: told.append(pace)).progress(DownloadProgress(MB, None, 2.0))
    assert told == [(0.0, TransferRate(0.5 * MB, None))]
    (line,) = lines
    assert (line["percent"], line["mb_per_second"], line["seconds_left"]) == (None, 0.5, None)


def test_each_report_is_one_line_but_the_last(what: str) -> None:
    """``download`` tells of the end itself."""
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


def test_bytes_are_counted_as_they_come_and_not_twice(what: str) -> None:
    transfer = WatchedDownload(what)
    counted = []
    for arrived in (300, 700, 500, 900):  # in between something was found to be wrong
        transfer.progress(DownloadProgress(arrived, 1000, 1.0))
        counted.append(value("_bytes_total", what))
    assert counted == [300, 700, 700, 1100]


def test_a_success_is_counted_with_what_it_took(what: str) -> None:
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
def test_a_failure_is_counted_by_its_code(what: str, error: Exception, outcome: str) -> None:
    with pytest.raises(type(error)), watch_download(what):
        raise error
    assert value("s_total", what, outcome=outcome) == 1
    assert value("s_total", what, outcome="success") == 0
    assert value("_connections_count", what) == 0


@pytest.fixture
def server() -> Iterator[SourceServer]:
    with SourceServer() as server:
        yield server


def test_a_real_download_is_told_of_while_it_goes_on(what: str, server: SourceServer, tmp_path: Path) -> None:
    """The source gives the second half only once the first has been told of."""
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
    told: list[float] = []

    def listener(fraction: float, pace: TransferRate) -> None:
        told.append(fraction)
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
    assert 0 < told[0] < 1
    assert told[-1] == 1.0
    assert value("_bytes_total", what) == 2 * len(half)
