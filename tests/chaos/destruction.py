"""Destroys logs under running services, and records which jobs may be lost with them.

All services stand still while a log is examined and destroyed. So the record is exact: what a member has begun by then
may not be lost, and neither may what is accepted later.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from kafka.errors import KafkaError

from tests.chaos.audit.ledger import LogDestroyed
from tests.chaos.system.settings import topics
from tests.chaos.system.system import System

#: Time in which the broker answers the requests that were sent before the standstill, s.
_SETTLE_SECONDS = 0.3
#: Maximum time until a deleted topic can be created again, s.
_RECREATE_TIMEOUT = 30.0
#: Maximum time until the broker answers for the record, s. The services stand still meanwhile.
_RECORD_TIMEOUT = 3.0
_LOOK_SECONDS = 0.1


def recreate_topic(system: System, number: int, topic: str) -> None:
    """Delete the topic and create it again with the same settings."""
    with _standstill(system), closing(system.kafka.admin()) as admin:
        (found,) = admin.describe_topics([topic])
        _record(system, number, [topic])
        admin.delete_topics([topic])
    partitions = found["partitions"]
    description = {
        "num_partitions": len(partitions),
        "replication_factor": len(partitions[0]["replica_nodes"]),
    }
    deadline = time.monotonic() + _RECREATE_TIMEOUT
    with closing(system.kafka.admin()) as admin:
        while True:
            try:
                admin.create_topics({topic: description})
                return
            except KafkaError:  # the topic is still being deleted
                if time.monotonic() > deadline:
                    raise
                time.sleep(_LOOK_SECONDS)


def truncate_topic(system: System, number: int, topic: str) -> None:
    """Kill the broker, remove the later half of the topic's log, in the middle of a record, and start the broker."""
    broker = system.cluster.brokers[0]
    with _standstill(system):
        _record(system, number, [topic])
        broker.kill()
        for log in system.broker_folder.glob(f"log/{topic}-*/*.log"):
            if log.parent.name.rpartition("-")[0] == topic:
                os.truncate(log, log.stat().st_size // 2)
    broker.start()


def back_up(system: System) -> None:
    """Copy the folder of the broker, which is stopped meanwhile."""
    broker = system.cluster.brokers[0]
    broker.stop()
    shutil.rmtree(_copy_of(system), ignore_errors=True)
    shutil.copytree(system.broker_folder, _copy_of(system))
    broker.start()


def restore(system: System, number: int) -> None:
    """Replace the folder of the broker by its copy: everything since then is lost to the log."""
    named = topics()
    broker = system.cluster.brokers[0]
    with _standstill(system):
        _record(system, number, [*named.jobs, named.results, *named.retry_names])
        broker.kill()
        shutil.rmtree(system.broker_folder)
        _copy_of(system).rename(system.broker_folder)
    broker.start()


def _copy_of(system: System) -> Path:
    return system.broker_folder.with_name("copy")


@contextmanager
def _standstill(system: System) -> Iterator[None]:
    """Suspend all services, for less than the session timeout."""
    with ExitStack() as suspended:
        for service in system.services.values():
            suspended.enter_context(service.lock)
            service.pause()
            suspended.callback(service.resume)
        time.sleep(_SETTLE_SECONDS)
        yield


def _record(system: System, number: int, names: Iterable[str]) -> None:
    deadline = time.monotonic() + _RECORD_TIMEOUT
    while True:
        try:
            waiting, begun = system.kafka.unfinished(names)
            break
        except KafkaError:  # the broker was started a moment ago
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_SECONDS)
    system.ledger.add(LogDestroyed(number=number, expendable=sorted(waiting - begun), held=sorted(begun)))
