"""When all is healed: wait until everybody was told, end the services, and look at what they have left."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from kafka.errors import KafkaError

from tests.chaos.books import STEPS, Books
from tests.chaos.ledger import Lag, Leftover, Progressed
from tests.chaos.service import Service
from tests.chaos.system import System

_LOOK_SECONDS = 1.0
#: How long objects of the hand-off may outlive the last job: they are deleted after it has been settled, s.
_TIDYING = 15.0
#: How long the cluster may take to say where the groups are, s.
_ANSWERING = 60.0


def drain(system: System, patience: float) -> bool:
    """Wait until all jobs have been told of and all messages settled; whether that came within ``patience`` s."""
    deadline = time.monotonic() + patience
    while _open_jobs(system) or _lags(system):
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_SECONDS)
    return True


def _open_jobs(system: System) -> set[str]:
    books = Books(system.ledger.entries)
    return books.accepted.keys() - books.delivered.keys()


def _lags(system: System) -> bool:
    try:
        return bool(system.kafka.lags())
    except KafkaError:
        return True  # it cannot be told yet


def take_stock(system: System) -> None:
    """End the services and write down what is left of them: what is in the topics, the store, on the disks."""
    ledger = system.ledger
    ledger.add(*_final_lags(system))
    _wait_until_tidy(system)
    ledger.add(*system.kafka.ends(), *system.kafka.dead_letters())
    complaints = system.stop_services()
    ledger.add(*(Leftover(what=complaint) for complaint in complaints))
    ledger.add(*system.objects.objects())
    for service in system.services.values():
        ledger.add(*_leftovers(service), *_steps(service))


def _final_lags(system: System) -> list[Lag]:
    deadline = time.monotonic() + _ANSWERING
    while True:
        try:
            return system.kafka.lags()
        except KafkaError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_SECONDS)


def _wait_until_tidy(system: System) -> None:
    deadline = time.monotonic() + _TIDYING
    while time.monotonic() < deadline and any(key.startswith("handoff/") for key in system.objects.all_keys()):
        time.sleep(_LOOK_SECONDS)


def _leftovers(service: Service) -> Iterator[Leftover]:
    for name in service.disk.files():
        yield Leftover(what=f"{service.name}: {name} in TEMP_DIR")
    for process in service.remains():
        yield Leftover(what=f"{service.name}: process {process.pid}, {' '.join(process.cmdline()[:4])}")


def _steps(service: Service) -> Iterator[Progressed]:
    """What the service says that it has done, in all of its lives."""
    with service.log_file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            event = _parsed(line)
            if event.get("event") in STEPS and "task_uuid" in event:
                at = datetime.fromisoformat(event["timestamp"]).timestamp()
                yield Progressed(at=at, service=service.name, task_uuid=event["task_uuid"], step=event["event"])


def _parsed(line: str) -> dict[str, Any]:
    """The event; none if the process was killed while it wrote."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}
