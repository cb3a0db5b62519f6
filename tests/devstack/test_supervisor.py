"""Test that processes which end are started again, with small real servers."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devstack.errors import ServerStartError
from devstack.processes.process import ServerProcess
from devstack.supervisor import MAX_FAILED_STARTS, ServiceSupervisor

#: Longest wait for any change, s.
PATIENCE = 30.0
#: Is ready when it has written its process id; then does what the file `plan` contains, if it exists.
SERVICE = """
import os, pathlib, signal, sys
folder = pathlib.Path(sys.argv[1])
plan = folder / "plan"
if plan.exists():
    exec(plan.read_text())
(folder / "ready").write_text(str(os.getpid()))
signal.pause()
"""


class Service:
    """A small service, its process and its supervisor's reports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._changed = threading.Condition()
        self.process = ServerProcess(
            "service",
            [sys.executable, "-c", SERVICE, str(folder)],
            log_file=folder / "log",
            ready=self._is_ready,
            ready_timeout=PATIENCE,
        )
        self.supervisor = ServiceSupervisor({"service": self.process}, self._notify, first_delay=0.01)

    def _is_ready(self) -> bool:
        path = self.folder / "ready"
        return path.exists() and path.read_text() == str(self.process.pid)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def kill(self) -> None:
        pid = self.process.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE)

    def failure(self) -> str:
        """Return the error that ends the stack."""
        for thread in self.supervisor._threads.values():
            thread.join(PATIENCE)
        with pytest.raises(ServerStartError) as caught:
            self.supervisor.require_running()
        return str(caught.value)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    with service.process:
        yield service


def test_killed_process_is_started_again(service: Service) -> None:
    member = service.supervisor.members["service"]
    with service.supervisor:
        for restarts in (1, 2):
            service.kill()
            service.wait_until(lambda n=restarts: member.restarts == n and member.state == "running")  # type: ignore[misc]
            assert member.last_end == "was killed by SIGKILL"
            assert service.process.running
        service.supervisor.require_running()


def test_process_that_needs_a_person_ends_the_stack(service: Service) -> None:
    (service.folder / "plan").write_text("print('SETTING: wrong', flush=True); sys.exit(78)")
    with service.supervisor:
        service.kill()
        failure = service.failure()
    assert failure.startswith("service ended with code 78")
    assert failure.endswith("SETTING: wrong")


def test_process_that_never_starts_again_ends_the_stack(service: Service) -> None:
    (service.folder / "plan").write_text("sys.exit('no luck')")
    with service.supervisor:
        service.kill()
        failure = service.failure()
    assert failure.startswith("service ended with code 1 before it answered")
    assert failure.endswith("no luck")
    assert service.supervisor.members["service"].restarts == MAX_FAILED_STARTS


def test_end_of_the_supervision_does_not_wait_for_a_start(service: Service) -> None:
    (service.folder / "plan").write_text("signal.pause()")
    member = service.supervisor.members["service"]
    with service.supervisor:
        service.kill()
        service.wait_until(lambda: member.state == "starting")
    assert not service.process.running
