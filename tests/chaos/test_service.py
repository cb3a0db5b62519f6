"""A service as a process: killed, paused, looked for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from devstack.environment import isolated_environment
from tests.chaos.disk import Disk
from tests.chaos.service import Service

PATIENCE = 20.0


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    disk = Disk(tmp_path / "tmp", small=False)
    service = Service("dawdler", "tests.chaos.dawdler", tmp_path, disk, "http://127.0.0.1:9", isolated_environment({}))
    service.start()
    wait_for((tmp_path / "begun").exists)
    yield service
    service.kill()
    for process in service.remains():
        process.kill()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_its_child_is_found_and_outlives_it(service: Service) -> None:
    child = service.child()
    assert child is not None
    service.kill()
    assert child.is_running()
    assert service.remains() == [child]
    child.kill()
    wait_for(lambda: not service.remains())


def test_it_hangs_and_goes_on(service: Service) -> None:
    assert service.pid is not None
    process = psutil.Process(service.pid)
    service.pause()
    wait_for(lambda: process.status() == psutil.STATUS_STOPPED)
    service.resume()
    wait_for(lambda: process.status() != psutil.STATUS_STOPPED)


def test_whether_it_should_run(service: Service) -> None:
    assert (service.wanted, service.status) == (True, None)
    assert service.pid is not None
    os.kill(service.pid, 9)
    wait_for(lambda: service.status is not None)
    assert (service.wanted, service.status) == (True, -9)
    service.start()
    assert service.pid is not None
    service.stop()
    assert (service.wanted, service.status) == (False, -15)


def test_it_does_not_get_ready(service: Service) -> None:
    with pytest.raises(TimeoutError, match="dawdler does not get ready"):
        service.await_ready(time.monotonic())
