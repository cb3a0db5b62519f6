"""Tests of a service process: kill, pause, remaining processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from devstack.environment import isolated_environment
from tests.chaos.system.disk import Disk
from tests.chaos.system.service import Service

TIMEOUT = 20.0


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    disk = Disk(tmp_path / "tmp", small=False)
    service = Service(
        "sleeper", "tests.chaos.system.sleeper", tmp_path, disk, "http://127.0.0.1:9", isolated_environment({})
    )
    service.start()
    wait_for((tmp_path / "begun").exists)
    yield service
    service.kill()
    for process in service.remaining_processes():
        process.kill()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_child_is_found_and_survives_the_service(service: Service) -> None:
    child = service.child()
    assert child is not None
    service.kill()
    assert child.is_running()
    assert service.remaining_processes() == [child]
    child.kill()
    wait_for(lambda: not service.remaining_processes())


def test_pause_and_resume(service: Service) -> None:
    assert service.pid is not None
    process = psutil.Process(service.pid)
    service.pause()
    wait_for(lambda: process.status() == psutil.STATUS_STOPPED)
    service.resume()
    wait_for(lambda: process.status() != psutil.STATUS_STOPPED)


def test_should_run_distinguishes_stop_from_crash(service: Service) -> None:
    assert (service.should_run, service.status) == (True, None)
    assert service.pid is not None
    os.kill(service.pid, 9)
    wait_for(lambda: service.status is not None)
    assert (service.should_run, service.status) == (True, -9)
    service.start()
    assert service.pid is not None
    service.stop()
    assert (service.should_run, service.status) == (False, -15)


def test_await_ready_times_out(service: Service) -> None:
    with pytest.raises(TimeoutError, match="sleeper is not ready"):
        service.await_ready(time.monotonic())
