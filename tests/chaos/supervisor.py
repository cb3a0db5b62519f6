"""Starts services again that have ended although nobody had told them to, as an operator's supervisor does."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from tests.chaos.ledger import Quit
from tests.chaos.service import Service
from tests.chaos.system import System

#: Pause before it is started again, which is also how often it looks, s.
_PAUSE = 1.0


class Supervisor:
    """Works in a thread while the block lasts."""

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
                        self._look_after(service)
                    finally:
                        service.lock.release()

    def _look_after(self, service: Service) -> None:
        status = service.status
        if service.wanted and status is not None:
            self._system.ledger.add(Quit(service=service.name, status=status))
            service.start()
