"""The end of a run: waits for all outcomes, stops the services, and records the final state."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from kafka.errors import KafkaError

from tests.chaos.audit.ledger import Lag, Leftover, StepLogged
from tests.chaos.audit.ledger_index import STEPS, LedgerIndex
from tests.chaos.system.service import Service
from tests.chaos.system.system import System

_LOOK_SECONDS = 1.0
#: Maximum time until objects of the hand-off are deleted after the last job has been settled, s.
_CLEANUP_TIMEOUT = 15.0
#: Maximum time until the cluster returns the groups' offsets, s.
_LAG_TIMEOUT = 60.0


def drain(system: System, timeout: float) -> bool:
    """Wait until all outcomes are delivered and all messages settled. Return False after ``timeout`` s."""
    deadline = time.monotonic() + timeout
    while _open_jobs(system) or _lags(system):
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_SECONDS)
    return True


def _open_jobs(system: System) -> set[str]:
    index = LedgerIndex(system.ledger.entries)
    return set(index.lost - index.expendable)


def _lags(system: System) -> bool:
    try:
        return bool(system.kafka.lags())
    except KafkaError:
        return True  # unknown: the cluster does not respond yet


def record_final_state(system: System) -> None:
    """Stop the services and record the final state of topics, store, disks and processes."""
    ledger = system.ledger
    ledger.add(*_final_lags(system))
    _wait_until_handoff_is_empty(system)
    ledger.add(*system.kafka.ends(), *system.kafka.dead_letters())
    errors = system.stop_services()
    ledger.add(*(Leftover(what=error) for error in errors))
    ledger.add(*system.objects.objects())
    for service in system.services.values():
        ledger.add(*_leftovers(service), *_logged_steps(service))


def _final_lags(system: System) -> list[Lag]:
    deadline = time.monotonic() + _LAG_TIMEOUT
    while True:
        try:
            return system.kafka.lags()
        except KafkaError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_SECONDS)


def _wait_until_handoff_is_empty(system: System) -> None:
    deadline = time.monotonic() + _CLEANUP_TIMEOUT
    while time.monotonic() < deadline and any(key.startswith("handoff/") for key in system.objects.all_keys()):
        time.sleep(_LOOK_SECONDS)


def _leftovers(service: Service) -> Iterator[Leftover]:
    for name in service.disk.files():
        yield Leftover(what=f"{service.name}: {name} in TEMP_DIR")
    for process in service.remaining_processes():
        yield Leftover(what=f"{service.name}: process {process.pid}, {' '.join(process.cmdline()[:4])}")


def _logged_steps(service: Service) -> Iterator[StepLogged]:
    """Yield the steps that the service has logged, over all of its restarts."""
    with service.log_file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            event = _parse(line)
            if event.get("event") in STEPS and "task_uuid" in event:
                at = datetime.fromisoformat(event["timestamp"]).timestamp()
                yield StepLogged(at=at, service=service.name, task_uuid=event["task_uuid"], step=event["event"])


def _parse(line: str) -> dict[str, Any]:
    """Return the event of a log line; empty if the process was killed while it wrote the line."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}
