"""A model file appears whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.download import UrlGuard
from pipeline.errors import ErrorCode, PipelineError, TransientError
from processor.models import NotServedError, fetch
from tests.support.source_server import (
    Exchange,
    SourceServer,
    announced,
    answer,
    reset_after,
    sequence,
    stall_after,
)

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL = bytes(range(256)) * 8192
ANYWHERE = UrlGuard(allow_private=True)


@pytest.fixture
def source() -> Iterator[SourceServer]:
    with SourceServer() as server:
        server.serve_bytes("/model.onnx", MODEL)
        yield server


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_fetched_once(tmp_path: Path, source: SourceServer) -> None:
    for _ in range(2):
        fetch(source.url("/model.onnx"), str(tmp_path / "model.onnx"), ANYWHERE)
    assert (tmp_path / "model.onnx").read_bytes() == MODEL
    assert names(tmp_path) == ["model.onnx"]
    assert source.connections == 1


def test_a_file_may_be_read_by_others_as_any_new_file(tmp_path: Path, source: SourceServer) -> None:
    """Model folders are shared between users; drafts often are for their owner alone."""
    (tmp_path / "ordinary").touch()
    fetch(source.url("/model.onnx"), str(tmp_path / "model.onnx"), ANYWHERE)
    assert (tmp_path / "model.onnx").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("behaviour", [answer(503), reset_after(MODEL, 5000), announced(MODEL, len(MODEL) + 1)])
def test_a_failure_leaves_nothing_and_the_next_try_works(
    tmp_path: Path, source: SourceServer, behaviour: object
) -> None:
    source.add("/model.onnx", sequence(behaviour, answer(200, {}, MODEL)))  # type: ignore[arg-type]
    target = str(tmp_path / "model.onnx")
    with pytest.raises(TransientError):
        fetch(source.url("/model.onnx"), target, ANYWHERE)
    assert names(tmp_path) == []
    fetch(source.url("/model.onnx"), target, ANYWHERE)
    assert names(tmp_path) == ["model.onnx"]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_an_address_without_the_file_lets_the_library_try_another(
    tmp_path: Path, source: SourceServer, status: int
) -> None:
    source.add("/model.onnx", answer(status))
    with pytest.raises(RuntimeError, match=str(status)) as caught:
        fetch(source.url("/model.onnx"), str(tmp_path / "model.onnx"), ANYWHERE)
    assert isinstance(caught.value, NotServedError)
    assert names(tmp_path) == []


def test_lists_of_models_do_not_open_our_network(tmp_path: Path, source: SourceServer) -> None:
    with pytest.raises(NotServedError):
        fetch(source.url("/model.onnx"), str(tmp_path / "model.onnx"), UrlGuard(allow_private=False))
    assert source.connections == 0


def test_a_folder_that_is_gone_is_our_own_trouble(tmp_path: Path, source: SourceServer) -> None:
    with pytest.raises(PipelineError) as caught:
        fetch(source.url("/model.onnx"), str(tmp_path / "gone" / "model.onnx"), ANYWHERE)
    assert caught.value.code is ErrorCode.STORAGE_UNAVAILABLE
    assert str(tmp_path) not in caught.value.message


def test_a_process_that_is_killed_in_the_middle_leaves_no_half_model(tmp_path: Path, source: SourceServer) -> None:
    source.add("/model.onnx", sequence(stall_after(MODEL, 1_500_000), answer(200, {}, MODEL)))
    program = (
        "import sys; from pipeline.download import UrlGuard; from processor.models import fetch\n"
        "fetch(sys.argv[1], sys.argv[2], UrlGuard(allow_private=True))"
    )
    url, target = source.url("/model.onnx"), tmp_path / "model.onnx"
    with subprocess.Popen([sys.executable, "-c", program, url, str(target)], cwd=REPOSITORY) as process:
        source.wait_for_requests(1)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    (remains,) = tmp_path.iterdir()
    assert remains.name.startswith(".incoming-")

    fetch(url, str(target), ANYWHERE)

    assert target.read_bytes() == MODEL
    assert names(tmp_path) == sorted([remains.name, "model.onnx"])  # it might be another process's, at work


def test_what_killed_processes_left_goes_after_a_day(tmp_path: Path, source: SourceServer) -> None:
    ages = {"a-day": 86_401.0, "an-hour": 3_600.0}
    for name, age in ages.items():
        folder = tmp_path / f".incoming-{name}"
        folder.mkdir()
        (folder / "file").write_bytes(b"half a model")
        os.utime(folder, (time.time() - age,) * 2)
    fetch(source.url("/model.onnx"), str(tmp_path / "model.onnx"), ANYWHERE)
    assert names(tmp_path) == [".incoming-an-hour", "model.onnx"]


def test_two_processes_may_fetch_the_same_file(tmp_path: Path, source: SourceServer) -> None:
    together = threading.Barrier(2, timeout=20)

    def served_together(exchange: Exchange) -> None:
        together.wait()
        exchange.respond(200, MODEL)

    source.add("/model.onnx", served_together)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            fetch(source.url("/model.onnx"), str(tmp_path / "model.onnx"), ANYWHERE)
        except BaseException as error:  # noqa: BLE001 - shown by the thread that runs the test
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert failures == []
    assert (tmp_path / "model.onnx").read_bytes() == MODEL
    assert names(tmp_path) == ["model.onnx"]
