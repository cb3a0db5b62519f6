"""The child processes of one processor: assign jobs to them, and restart those that have exited.

Each child has a device, alone or shared with others, and its own loaded models. The first waiting job is assigned to a
child that is ready and free: preferably one that has its model loaded, then one on a device with fewer running jobs,
then the least recently used one. A job never waits for a particular child while another one is free.

A child that dies is replaced immediately, see ``processor.workers.supervisor``. If a child cannot start, because its
device is gone, the start is retried with increasing delays for as long as the service runs; the other children work
meanwhile. While no child is ready, jobs wait for the ones that load, and fail with the reason if none can start.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
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

#: The delays between attempts to start a child that could not start. Each attempt costs seconds of CPU time.
RESTART_BACKOFF = Backoff(base=10.0, cap=600.0)


class WorkerPool:
    """One or more worker processes, in the order in which their status is shown. Thread-safe."""

    def __init__(self, processes: Sequence[WorkerSupervisor], stop: StopSignal) -> None:
        self._processes = tuple(processes)
        self._condition = StoppableCondition(stop)
        self.dispatcher = Dispatcher(self._condition, self._processes, self._choose)
        self._start_errors: dict[WorkerSupervisor, InfrastructureError] = {}
        """The processes whose last start failed, and the reason."""
        for process in self._processes:
            process.on_state_change = self._update
        self._update_metrics()

    def __len__(self) -> int:
        return len(self._processes)

    def start(self, cancel: CancelToken) -> None:
        """Start the children and supervise them until ``cancel``; return as soon as one of them is ready.

        Raises InfrastructureError if none of them can start, and CancelledError.
        """
        for process in self._processes:
            threading.Thread(target=self._supervise, args=(process, cancel), name="supervisor", daemon=True).start()
        with self._condition:
            self._condition.wait_for(lambda: self.is_ready or len(self._start_errors) == len(self), cancel)
            if not self.is_ready:
                raise next(self._start_errors[process] for process in self._processes)

    def _supervise(self, process: WorkerSupervisor, cancel: CancelToken) -> None:
        """Start a child whenever there is none, until ``cancel``."""
        failures = 0
        timeout: float | None = None  # the first start may have to download the model
        try:
            while True:
                try:
                    process.start(cancel, timeout=timeout)
                except InfrastructureError as error:
                    failures += 1
                    self._record_start(process, error)
                    delay = RESTART_BACKOFF.delay(failures, random.Random())  # noqa: S311  jitter
                    about = {"on": process.device.label, "error": error.message, "code": error.code}
                    log.error("worker_unavailable", **about, retry_in_seconds=round(delay, 1))
                    cancel.wait(delay)
                    cancel.raise_if_set()
                else:
                    failures, timeout = 0, process.load_timeout
                    self._record_start(process, None)
                    with self._condition:
                        self._condition.wait_for(lambda: process.ready is None, cancel)
        except CancelledError:
            log.debug("worker_supervision_ended")

    def _record_start(self, process: WorkerSupervisor, error: InfrastructureError | None) -> None:
        with self._condition:
            self._start_errors.pop(process, None)
            if error is not None:
                self._start_errors[process] = error
        self._update()

    def lease(
        self, cancel: CancelToken, model: str | Ensemble | None
    ) -> AbstractContextManager[Lease[WorkerSupervisor]]:
        """Lease a child to a job that asks for ``model``, while the block runs. Raises CancelledError."""
        choice = resolved(model or self._processes[0].default_model)
        return self.dispatcher.lease(cancel, frozenset([choice] if isinstance(choice, str) else choice.ensemble))

    def _choose(self, free: Sequence[WorkerSupervisor], models: frozenset[str]) -> WorkerSupervisor | None:
        """Choose a free child for a job that needs ``models``; among equal ones the least recently used."""
        ready = [process for process in free if process.ready]
        if ready:
            busy = Counter(process.device.label for process in self._processes if process not in free)
            return min(ready, key=lambda process: (-len(models & process.models), busy[process.device.label]))
        if self.is_ready:
            return None
        # No child is ready: the job waits for one that loads, or starts one, and fails if that fails.
        return min(free, key=lambda process: process.pid is None, default=None)

    @property
    def is_ready(self) -> bool:
        """True if a child has its model loaded, busy or not."""
        return any(process.ready for process in self._processes)

    def check(self) -> None:
        """Raise InfrastructureError unless a child has its model loaded."""
        if self.is_ready:
            return
        if len(self) == 1:
            self._processes[0].check()
        reasons = (f"{each['device']}: {each.get('error', each['state'])}" for each in self.status())
        raise InfrastructureError(
            f"no separation process is ready ({'; '.join(reasons)})", code=ErrorCode.MODEL_UNAVAILABLE
        )

    def status(self) -> list[dict[str, Any]]:
        """Return the status of each child, for /health and /ready."""
        busy = self.dispatcher.busy
        return [_status(process, process in busy) for process in self._processes]

    def close(self) -> None:
        """End all children, in parallel, so that one that does not exit does not delay the others."""
        threads = [threading.Thread(target=process.close, name="close") for process in self._processes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _update(self) -> None:
        self._update_metrics()
        self._condition.notify()

    def _update_metrics(self) -> None:
        ready = Counter(process.device.label for process in self._processes if process.ready)
        for label in {process.device.label for process in self._processes}:
            metrics.processes_ready.labels(label).set(ready[label])


def _status(process: WorkerSupervisor, busy: bool) -> dict[str, Any]:
    ready, pid = process.ready, process.pid
    status: dict[str, Any] = {
        "device": process.device.label,
        "name": ready.device if ready else process.device.name or None,
        "pid": pid,
        "models": sorted(process.models),
    }
    if ready:
        return {**status, "state": "separating" if busy else "ready"}
    reason = {} if process.last_error is None else {"error": process.last_error}
    return {**status, "state": "unavailable" if pid is None else "loading", **reason}
