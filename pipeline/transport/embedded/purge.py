"""Drops the messages past their retention, and gives their space back to the file system.

Everything happens in short transactions with pauses, so that no other writer waits long, whatever there is to drop.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from pipeline.service.logs import get_logger
from pipeline.transport.embedded.database import SETTLED, Database

log = get_logger(__name__)

#: Interval at which settled messages past their retention are dropped, s.
PURGE_INTERVAL = 600.0
#: Time after which a transaction of the purge ends, s.
_SLICE = 0.01
#: Pause between two transactions of the purge, s. Writers of other processes look for the lock every 1 to 25 ms.
_PAUSE = 0.05

_RETENTIONS = "SELECT name, retention, reports FROM topics WHERE retention IS NOT NULL"
_EXPIRED = f"""
SELECT m.seq, m.published FROM messages m
WHERE m.topic = :topic AND m.published >= :after AND m.published < :limit AND (:reports OR {SETTLED})
ORDER BY m.published LIMIT 500
"""
# A group may have joined meanwhile.
_DROP = f"DELETE FROM messages AS m WHERE m.seq = :seq AND (:reports OR {SETTLED})"
# A report may be dropped unread. One that a member holds keeps its row until it is settled or its lease expires.
_DROP_DELIVERIES = "DELETE FROM deliveries WHERE topic = :topic AND seq = :seq AND owner IS NULL"


def purge(database: Database, stop: threading.Event) -> None:
    """Drop the expired messages of every topic and shrink the file, until done or ``stop`` is set.

    Messages that a group has not settled are kept, unless they are reports. A purge that is interrupted, by a power
    failure too, leaves the rest to the next one. Raises InfrastructureError.
    """
    dropped = 0
    for topic, retention, reports in database.query(_RETENTIONS, {}):
        values = {"topic": topic, "limit": time.time() - retention, "reports": reports, "after": 0.0}
        while not stop.is_set() and (rows := database.query(_EXPIRED, values)):
            count = _drop(database, values, [seq for seq, _ in rows])
            if count == 0:
                break  # another process is faster
            dropped += count
            values["after"] = rows[count - 1][1]
            _pause(database, stop)
    released = _release_space(database, stop)
    if dropped or released:
        log.info("queue_purged", messages=dropped, bytes_released=released)


def _drop(database: Database, values: Mapping[str, object], offsets: list[int]) -> int:
    """Drop the messages in one transaction, as many as its time allows. Return their number."""
    count, deadline = 0, time.monotonic() + _SLICE
    with database.transaction() as connection:
        for seq in offsets:
            row = {**values, "seq": seq}
            if connection.execute(_DROP, row).rowcount:
                connection.execute(_DROP_DELIVERIES, row)
                count += 1
            if time.monotonic() > deadline:
                break
    return count


def _release_space(database: Database, stop: threading.Event) -> int:
    """Move the file's free pages to its end and cut them off. Return the number of bytes."""
    ((page_size,),) = database.query("PRAGMA page_size", {})
    free = _free_pages(database)
    released = 0
    while free and not stop.is_set():
        deadline = time.monotonic() + _SLICE
        with database.transaction() as connection:
            for _ in range(free):
                connection.execute("PRAGMA incremental_vacuum(1)")  # the module fetches one page at most
                if time.monotonic() > deadline:
                    break
        before, free = free, _free_pages(database)
        if free >= before:
            break  # a file that cannot shrink, or others drop more than this releases
        released += before - free
        _pause(database, stop)
    return released * int(page_size)


def _pause(database: Database, stop: threading.Event) -> None:
    """Let others write. Applies the log first, which otherwise the commit of another process would have to do."""
    database.query("PRAGMA wal_checkpoint(PASSIVE)", {})
    stop.wait(_PAUSE)


def _free_pages(database: Database) -> int:
    ((pages,),) = database.query("PRAGMA freelist_count", {})
    return int(pages)
