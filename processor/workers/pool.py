"""The child processes of one processor: which of them a job goes to, which of them are there, and keeping them there.

Each has a device, alone or beside others, and models of its own. A job goes, as soon as it is the first in the line, to
a child that is ready and free: one that has its model loaded, else one on a device where fewer are at work, else the
one that has done nothing for longest. No job waits for a certain child while another one is free.

A child that dies is replaced at once, see ``processor.workers.supervisor``. One that cannot start, because its device is gone,
is tried again for as long as the service runs, ever more rarely; the others work meanwhile. While none is ready, jobs
wait for those that load, and are told why there is none.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from pipeline.backoff import Backoff
from pipeline.cancellation import CancelToken
from pipeline.errors import CancelledError, ErrorCode, InfrastructureError
from pipeline.model_choice import Ensemble
from pipeline.service import metrics
from pipeline.service.logs import get_logger
from pipeline.service.shutdown import StopSignal
from processor.models.presets import resolved
from processor.stop_condition import StoppableCondition
from processor.workers.dispatcher import Dispatcher, Lease
from processor.workers.supervisor import WorkerSupervisor

log = get_logger(__name__)

#: Between two tries to have a child where there could be none. Each costs seconds of a core.
ABSENT = Backoff(base=10.0, cap=600.0)


class WorkerPool:
    """``processes``, of which there is at least one, in the order in which they are shown. Thread-safe."""

    def __init__(self, processes: Sequence[WorkerSupervisor], stop: StopSignal) -> None:
        self._processes = tuple(processes)
        self._condition = StoppableCondition(stop)
        self.dispatcher = Dispatcher(self._condition, self._processes, self._choose)
        self._failed: dict[WorkerSupervisor, InfrastructureError] = {}
        """Those that could not be started at the last try."""
        for process in self._processes:
            process.on_change = self._changed
        self._count()

    def __len__(self) -> int:
        return len(self._processes)

    def start(self, cancel: CancelToken) -> None:
        """Have children, and go on to until ``cancel``; returns as soon as one of them is ready.

        Raises InfrastructureError if none of them can work, and CancelledError.
        """
        for process in self._processes:
            threading.Thread(target=self._keep, args=(process, cancel), name="keeper", daemon=True).start()
        with self._condition:
            self._condition.wait_for(lambda: self.is_ready or len(self._failed) == len(self), cancel)
            if not self.is_ready:
                raise next(self._failed[process] for process in self._processes)

    def lease(
        self, cancel: CancelToken, model: str | Ensemble | None
    ) -> AbstractContextManager[Lease[WorkerSupervisor]]:
        """A child for a job that asks for ``model``, for as long as the block takes. Raises CancelledError."""
        return self.dispatcher.lease(cancel, _names(model or self._processes[0].default_model))

    @property
    def is_ready(self) -> bool:
        """Whether there is a child whose model is loaded, at work or not."""
        return any(process.ready for process in self._processes)

    def check(self) -> None:
        """Raise InfrastructureError unless there is a child whose model is loaded: then work flows."""
        if self.is_ready:
            return
        if len(self) == 1:
            self._processes[0].check()
        reasons = (f"{each['device']}: {each.get('error', each['state'])}" for each in self.status())
        raise InfrastructureError(
            f"no separation process is ready ({'; '.join(reasons)})", code=ErrorCode.MODEL_UNAVAILABLE
        )

    def status(self) -> list[dict[str, Any]]:
        """What is to be known of each child, for /health and /ready."""
        busy = self.dispatcher.busy
        return [_shown(process, process in busy) for process in self._processes]

    def close(self) -> None:
        """End all children; there will be no others. One that does not die holds up no other one's end."""
        ends = [threading.Thread(target=process.close, name="end") for process in self._processes]
        for end in ends:
            end.start()
        for end in ends:
            end.join()

    def _choose(self, free: Sequence[WorkerSupervisor], wants: frozenset[str]) -> WorkerSupervisor | None:
        """Of equal ones the first: the least recently used one."""
        ready = [process for process in free if process.ready]
        if ready:
            busy = Counter(process.device.label for process in self._processes if process not in free)
            return min(ready, key=lambda process: (-len(wants & process.models), busy[process.device.label]))
        if self.is_ready:
            return None
        # Nobody is: whoever is first has one started, or waits for one that loads, and hears of it if that fails.
        return min(free, key=lambda process: process.pid is None, default=None)

    def _keep(self, process: WorkerSupervisor, cancel: CancelToken) -> None:
        """Have a child again whenever there is none."""
        with _until_cancelled():
            self._have(process, cancel, None)
            while True:
                with self._condition:
                    self._condition.wait_for(lambda: process.ready is None, cancel)
                self._have(process, cancel, process.load_timeout)

    def _have(self, process: WorkerSupervisor, cancel: CancelToken, timeout: float | None) -> None:
        failures = 0
        while True:
            try:
                process.start(cancel, timeout=timeout)
            except InfrastructureError as error:
                failures += 1
                self._note(process, error)
                delay = ABSENT.delay(failures, random.Random())
                about = {"on": process.device.label, "error": error.message, "code": error.code}
                log.error("separation_process_unavailable", **about, retry_in_seconds=round(delay, 1))
                cancel.wait(delay)
                cancel.raise_if_set()
            else:
                self._note(process, None)
                return

    def _note(self, process: WorkerSupervisor, error: InfrastructureError | None) -> None:
        with self._condition:
            self._failed.pop(process, None)
            if error is not None:
                self._failed[process] = error
        self._changed()

    def _changed(self) -> None:
        self._count()
        self._condition.notify()

    def _count(self) -> None:
        ready = Counter(process.device.label for process in self._processes if process.ready)
        for label in {process.device.label for process in self._processes}:
            metrics.processes_ready.labels(label).set(ready[label])


@contextmanager
def _until_cancelled() -> Iterator[None]:
    try:
        yield
    except CancelledError:
        log.debug("keeper_ends")


def _names(model: str | Ensemble) -> frozenset[str]:
    """Of the models that a job needs."""
    choice = resolved(model)
    return frozenset([choice] if isinstance(choice, str) else choice.ensemble)


def _shown(process: WorkerSupervisor, busy: bool) -> dict[str, Any]:
    ready, pid = process.ready, process.pid
    shown: dict[str, Any] = {
        "device": process.device.label,
        "name": ready.device if ready else process.device.name or None,
        "pid": pid,
        "models": sorted(process.models),
    }
    if ready:
        return {**shown, "state": "separating" if busy else "ready"}
    why = {} if process.failure is None else {"error": process.failure}
    return {**shown, "state": "unavailable" if pid is None else "loading", **why}
