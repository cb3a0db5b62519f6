"""Injects the faults of a schedule and recovers from them, each in its own thread at its scheduled time."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

import psutil

from tests.chaos.audit.ledger import FaultBegan, FaultEnded, FaultSkipped, RunFailed
from tests.chaos.destruction import back_up, recreate_topic, restore, truncate_topic
from tests.chaos.schedule import BROKERS, DESTRUCTIVE, Fault, Kind, Schedule
from tests.chaos.system.proxy import Mode
from tests.chaos.system.system import System

#: Maximum wait for the recovery of the target from an earlier fault, s.
_LOCK_TIMEOUT = 5.0
#: Maximum time until a restarted broker is in sync with the others, s.
_SYNC_TIMEOUT = 60.0
#: Interval at which a full disk is filled again, s.
_REFILL_INTERVAL = 0.2

_MODES = {
    Kind.DROP: Mode.DROP,
    Kind.DELAY: Mode.DELAY,
    Kind.BLACK_HOLE: Mode.BLACK_HOLE,
    Kind.RESET: Mode.RESET,
}


class _Controllable(Protocol):
    """A server or a service that can be controlled."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _FaultActions:
    """The actions that inject a fault and recover from it."""

    inject: Callable[[], None]
    recover: Callable[[], None]
    repeat: Callable[[], None] | None = None
    """Called repeatedly while the fault lasts."""


class _NotInjectableError(Exception):
    """The fault cannot be injected now."""


class Injector:
    """Executes a schedule. Errors and targets that do not recover are recorded as ``RunFailed``."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._locks: dict[str, threading.Lock] = defaultdict(threading.Lock)
        for name, service in system.services.items():
            self._locks[name] = service.lock
        self._stopping = threading.Event()

    def run(self, schedule: Schedule) -> None:
        """Inject all faults; return after the last recovery. An interrupt ends the current faults immediately."""
        began = time.monotonic()
        threads: list[threading.Thread] = []
        try:
            for fault in schedule.faults:
                time.sleep(max(0.0, began + fault.at - time.monotonic()))
                thread = threading.Thread(target=self._run_fault, args=(fault,), name=f"fault-{fault.number}")
                thread.start()
                threads.append(thread)
            _join(threads)
        finally:
            self._stopping.set()
            _join(threads)

    def _run_fault(self, fault: Fault) -> None:
        try:
            with self._locked(fault):
                self._inject(fault)
        except _NotInjectableError as error:
            self._system.ledger.add(
                FaultSkipped(number=fault.number, kind=fault.kind, target=fault.target, why=str(error))
            )
        except Exception as error:  # noqa: BLE001 - the boundary of a thread: the run fails, the other faults recover
            self._record_failure(f"{fault.kind} of {fault.target} (fault {fault.number}): {error!r}")

    def _record_failure(self, what: str) -> None:
        self._system.ledger.add(RunFailed(what=what))

    @contextmanager
    def _locked(self, fault: Fault) -> Iterator[None]:
        """Lock the target, so that no other fault affects it."""
        lock = self._locks[held_resource(fault)]
        if not lock.acquire(timeout=_LOCK_TIMEOUT):
            raise _NotInjectableError("the target has not recovered yet")
        try:
            yield
        finally:
            lock.release()

    def _inject(self, fault: Fault) -> None:
        actions = self._actions(fault)
        ledger = self._system.ledger
        ledger.add(FaultBegan(number=fault.number, kind=fault.kind, target=fault.target))
        try:
            actions.inject()
            self._wait(fault.duration, actions.repeat)
        finally:
            ledger.add(FaultEnded(number=fault.number))
            actions.recover()
        if fault.target in BROKERS and not self._system.kafka.wait_in_sync(_SYNC_TIMEOUT):
            self._record_failure(f"{fault.target} is not in sync with the others after {_SYNC_TIMEOUT:.0f} s")

    def _wait(self, seconds: float, repeat: Callable[[], None] | None) -> None:
        if repeat is None:
            self._stopping.wait(seconds)
            return
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self._stopping.wait(_REFILL_INTERVAL):
            repeat()

    def _actions(self, fault: Fault) -> _FaultActions:
        system = self._system
        if fault.kind in _MODES:
            return self._network_actions(fault)
        if fault.kind is Kind.UNAVAILABLE:
            unavailable = {"source": system.source, "receiver": system.receiver}[fault.target].unavailable
            return _FaultActions(unavailable.set, unavailable.clear)
        if fault.kind is Kind.DISK_FULL:
            disk = system.services[fault.target].disk
            if not disk.small:
                raise _NotInjectableError("no small disk could be mounted")
            return _FaultActions(disk.fill, disk.free, repeat=disk.fill)
        if fault.kind in DESTRUCTIVE:
            return self._destructive_actions(fault)
        if fault.target.startswith("child"):
            return self._child_actions(fault)
        return _process_actions(fault.kind, self._target(fault.target))

    def _network_actions(self, fault: Fault) -> _FaultActions:
        names = BROKERS if fault.target == "cluster" else (fault.target,)
        proxies = [self._system.proxies[name] for name in names]

        def inject() -> None:
            for proxy in proxies:
                proxy.set(_MODES[fault.kind], delay=fault.delay)

        def recover() -> None:
            for proxy in proxies:
                proxy.set(Mode.PASS)

        return _FaultActions(inject, recover)

    def _destructive_actions(self, fault: Fault) -> _FaultActions:
        system, number = self._system, fault.number
        if fault.kind is Kind.REAPED:
            empty = system.services[fault.target].disk.empty
            return _FaultActions(empty, _nothing, repeat=empty)
        if fault.kind is Kind.RESTORED:
            return _FaultActions(lambda: back_up(system), lambda: restore(system, number))
        destroy = recreate_topic if fault.kind is Kind.RECREATED else truncate_topic
        return _FaultActions(lambda: destroy(system, number, fault.target), _nothing)

    def _child_actions(self, fault: Fault) -> _FaultActions:
        child = self._system.services[fault.target.replace("child", "processor")].child()
        if child is None:
            raise _NotInjectableError("there is no child process")
        inject, recover = (child.kill, _nothing) if fault.kind is Kind.KILL else (child.suspend, child.resume)
        return _FaultActions(_if_alive(inject), _if_alive(recover))

    def _target(self, target: str) -> _Controllable:
        system = self._system
        targets: dict[str, _Controllable] = {**system.services, **system.brokers, "s3": system.store}
        return targets[target]


def _process_actions(kind: Kind, process: _Controllable) -> _FaultActions:
    if kind is Kind.PAUSE:
        return _FaultActions(process.pause, process.resume)
    return _FaultActions(process.kill if kind is Kind.KILL else process.stop, process.start)


def held_resource(fault: Fault) -> str:
    """Return the resource that the fault locks until it has recovered."""
    if fault.kind in (Kind.DISK_FULL, Kind.REAPED):
        return f"{fault.target} disk"
    if fault.target in (*BROKERS, "cluster") or fault.kind in DESTRUCTIVE:
        return "brokers"
    if fault.target == "api" and fault.kind in _MODES:
        return "api proxy"
    return fault.target.replace("child", "processor")


def _join(threads: Iterable[threading.Thread]) -> None:
    for thread in threads:
        thread.join()


def _if_alive(action: Callable[[], None]) -> Callable[[], None]:
    def act() -> None:
        with suppress(psutil.Error):  # it may have died meanwhile
            action()

    return act


def _nothing() -> None:
    pass
