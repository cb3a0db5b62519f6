"""Makes the faults of a schedule and heals them again, each in a thread of its own, at its time."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

import psutil

from tests.chaos.ledger import Began, Ended, Failed, Skipped
from tests.chaos.proxy import Mode
from tests.chaos.schedule import BROKERS, Fault, Kind, Schedule
from tests.chaos.system import System

#: How long a fault waits for its target to be up again from an earlier one, s.
_PATIENCE = 5.0
#: How long a broker that has come back may take to catch up with the others, s.
_CATCHING_UP = 60.0
#: How often a full disk is filled anew, s.
_FILLING = 0.2

_MODES = {
    Kind.DROP: Mode.DROP,
    Kind.DELAY: Mode.DELAY,
    Kind.BLACK_HOLE: Mode.BLACK_HOLE,
    Kind.RESET: Mode.RESET,
}


class _Runs(Protocol):
    """A server or a service."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Remedy:
    """The two halves of a fault."""

    hurt: Callable[[], None]
    heal: Callable[[], None]
    again: Callable[[], None] | None = None
    """To be done over and over in between."""


class _ImpossibleError(Exception):
    """The fault cannot be made now."""


class Injector:
    """Carries out a schedule. What goes wrong with that, or does not come up again, is in the ledger as ``Failed``."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._locks: dict[str, threading.Lock] = defaultdict(threading.Lock)
        for name, service in system.services.items():
            self._locks[name] = service.lock
        self._stopping = threading.Event()

    def run(self, schedule: Schedule) -> None:
        """Returns when the last fault is healed; an interrupt heals those that there are at once."""
        began = time.monotonic()
        threads: list[threading.Thread] = []
        try:
            for fault in schedule.faults:
                time.sleep(max(0.0, began + fault.at - time.monotonic()))
                thread = threading.Thread(target=self._carry_out, args=(fault,), name=f"fault-{fault.number}")
                thread.start()
                threads.append(thread)
            _join(threads)
        finally:
            self._stopping.set()
            _join(threads)

    def _carry_out(self, fault: Fault) -> None:
        try:
            with self._held(fault):
                self._make(fault)
        except _ImpossibleError as error:
            self._system.ledger.add(Skipped(number=fault.number, kind=fault.kind, target=fault.target, why=str(error)))
        except Exception as error:  # noqa: BLE001 - the boundary: of a thread; the run fails, the others are healed
            self._fail(f"{fault.kind} of {fault.target} (fault {fault.number}): {error!r}")

    def _fail(self, what: str) -> None:
        self._system.ledger.add(Failed(what=what))

    @contextmanager
    def _held(self, fault: Fault) -> Iterator[None]:
        """Nobody else does anything to the target meanwhile."""
        lock = self._locks[what_is_held(fault)]
        if not lock.acquire(timeout=_PATIENCE):
            raise _ImpossibleError("it is not up again")
        try:
            yield
        finally:
            lock.release()

    def _make(self, fault: Fault) -> None:
        remedy = self._remedy(fault)
        ledger = self._system.ledger
        ledger.add(Began(number=fault.number, kind=fault.kind, target=fault.target))
        try:
            remedy.hurt()
            self._endure(fault.duration, remedy.again)
        finally:
            ledger.add(Ended(number=fault.number))
            remedy.heal()
        if fault.target in BROKERS and not self._system.kafka.wait_in_sync(_CATCHING_UP):
            self._fail(f"{fault.target} has not caught up with the others in {_CATCHING_UP:.0f} s")

    def _endure(self, seconds: float, again: Callable[[], None] | None) -> None:
        if again is None:
            self._stopping.wait(seconds)
            return
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self._stopping.wait(_FILLING):
            again()

    def _remedy(self, fault: Fault) -> _Remedy:
        system = self._system
        if fault.kind in _MODES:
            return self._on_the_network(fault)
        if fault.kind is Kind.UNWELL:
            unwell = {"source": system.source, "receiver": system.receiver}[fault.target].unwell
            return _Remedy(unwell.set, unwell.clear)
        if fault.kind is Kind.DISK_FULL:
            disk = system.services[fault.target].disk
            if not disk.small:
                raise _ImpossibleError("no small disk could be mounted")
            return _Remedy(disk.fill, disk.free, again=disk.fill)
        if fault.target.startswith("child"):
            return self._on_the_child(fault)
        return _on_the_process(fault.kind, self._running(fault.target))

    def _on_the_network(self, fault: Fault) -> _Remedy:
        names = BROKERS if fault.target == "cluster" else (fault.target,)
        proxies = [self._system.proxies[name] for name in names]

        def hurt() -> None:
            for proxy in proxies:
                proxy.set(_MODES[fault.kind], delay=fault.delay)

        def heal() -> None:
            for proxy in proxies:
                proxy.set(Mode.PASS)

        return _Remedy(hurt, heal)

    def _on_the_child(self, fault: Fault) -> _Remedy:
        child = self._system.services[fault.target.replace("child", "processor")].child()
        if child is None:
            raise _ImpossibleError("there is no child process")
        hurt, heal = (child.kill, _nothing) if fault.kind is Kind.KILL else (child.suspend, child.resume)
        return _Remedy(_if_alive(hurt), _if_alive(heal))

    def _running(self, target: str) -> _Runs:
        system = self._system
        everything: dict[str, _Runs] = {**system.services, **system.brokers, "s3": system.store}
        return everything[target]


def _on_the_process(kind: Kind, process: _Runs) -> _Remedy:
    if kind is Kind.PAUSE:
        return _Remedy(process.pause, process.resume)
    return _Remedy(process.kill if kind is Kind.KILL else process.stop, process.start)


def what_is_held(fault: Fault) -> str:
    """What nobody else may touch while the fault lasts, and until it is healed."""
    if fault.kind is Kind.DISK_FULL:
        return f"{fault.target} disk"
    if fault.target in (*BROKERS, "cluster"):
        return "brokers"
    if fault.target == "api" and fault.kind in _MODES:
        return "api proxy"
    return fault.target.replace("child", "processor")


def _join(threads: Iterable[threading.Thread]) -> None:
    for thread in threads:
        thread.join()


def _if_alive(action: Callable[[], None]) -> Callable[[], None]:
    def act() -> None:
        with suppress(psutil.Error):  # it may die of something else meanwhile
            action()

    return act


def _nothing() -> None:
    pass
