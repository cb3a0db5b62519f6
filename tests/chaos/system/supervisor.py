"""Restarts services that exited unexpectedly, like a process supervisor in production."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from tests.chaos.audit.ledger import ServiceExited
from tests.chaos.system.service import Service
from tests.chaos.system.system import System

#: Interval of the checks, which is also the maximum delay of a restart, s.
_PAUSE = 1.0


class Supervisor:
    """A supervisor thread that runs during the block."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(_PAUSE):
            for service in self._system.services.values():
                if service.lock.acquire(blocking=False):
                    try:
                        self._restart_if_exited(service)
                    finally:
                        service.lock.release()

    def _restart_if_exited(self, service: Service) -> None:
        status = service.status
        if service.should_run and status is not None:
            self._system.ledger.add(ServiceExited(service=service.name, status=status))
            service.start()
