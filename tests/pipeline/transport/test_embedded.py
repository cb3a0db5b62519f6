"""Tests specific to the embedded engine: one file, many processes, a full disk, bounded tables."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import CancelledError, ErrorCode, InfrastructureError
from pipeline.transport.embedded import transport as transport_module
from pipeline.transport.embedded.database import Database
from pipeline.transport.embedded.deliveries import SCHEDULE_SLICE
from pipeline.transport.embedded.purge import purge
from pipeline.transport.embedded.transport import EmbeddedSubscription, EmbeddedTransport
from pipeline.transport.protocol import NOT_BEFORE, Delivery, Message, Topic

ROOT = Path(__file__).parents[3]
TIMEOUT = 30.0
JOBS, RESULTS, REPORTS = "jobs", "results", "reports"
LEASE = 0.4


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "broker.sqlite"


@pytest.fixture
def transport(path: Path) -> Iterator[EmbeddedTransport]:
    transport = EmbeddedTransport(path, lease=LEASE)
    transport.ensure_topics([Topic(JOBS, 3600), Topic(RESULTS, 3600), Topic(REPORTS, 3600, reports=True)])
    yield transport
    transport.close()


def receive(subscription: EmbeddedSubscription) -> Delivery:
    delivery = subscription.receive(TIMEOUT)
    assert delivery is not None, "no delivery"
    return delivery


def jobs(count: int, topic: str = JOBS) -> list[Message]:
    return [Message(topic, f"key-{number}", b"") for number in range(count)]


def rows(path: Path, sql: str) -> list[Any]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def execute(path: Path, sql: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute(sql)
    finally:
        connection.close()


def last_line(member: subprocess.Popen[str]) -> str:
    """Return the result; log lines about reports lost on a slow machine may precede it."""
    return member.communicate(timeout=TIMEOUT * 2)[0].splitlines()[-1]


class TestManyProcesses:
    #: Receives jobs and forwards their keys until none arrives for 1 s; prints the received keys.
    MEMBER = """
import json, sys
from pathlib import Path
from pipeline.transport.embedded.transport import EmbeddedTransport
from pipeline.transport.protocol import Message, Topic

path, number, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
sys.stdin.readline()
transport = EmbeddedTransport(path, lease=5.0)
transport.ensure_topics([Topic("jobs", 3600), Topic("results", 3600)])
subscription = transport.subscribe(["jobs"], "group")
taken = []
for n in range(count):
    transport.publish(Message("jobs", f"{number}-{n}", b""))
    if n % 2:
        transport.emit(Message("reports", "r", b""))
    delivery = subscription.receive(0.0)
    if delivery is not None:
        taken.append(delivery.message.key)
        subscription.settle(delivery, Message("results", delivery.message.key, number.encode()))
while (delivery := subscription.receive(1.0)) is not None:
    taken.append(delivery.message.key)
    subscription.settle(delivery, Message("results", delivery.message.key, number.encode()))
transport.close()
sys.stdout.write(json.dumps(taken))
"""

    @pytest.mark.slow
    def test_concurrent_members_lose_and_duplicate_nothing(self, path: Path) -> None:
        count = 150
        members = [
            subprocess.Popen(
                [sys.executable, "-c", self.MEMBER, str(path), str(number), str(count)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(3)
        ]
        for member in members:  # all of them open a file that does not exist yet, at the same time
            assert member.stdin is not None
            member.stdin.write("go\n")
            member.stdin.flush()
        taken = Counter(key for member in members for key in json.loads(last_line(member)))

        assert [member.returncode for member in members] == [0, 0, 0]
        expected = {f"{number}-{n}" for number in range(3) for n in range(count)}
        assert set(taken) == expected
        assert set(taken.values()) == {1}
        results = [key for (key,) in rows(path, "SELECT key FROM messages WHERE topic = 'results'")]
        assert sorted(results) == sorted(expected)

    def test_concurrent_creation_of_the_file(self, path: Path) -> None:
        opened: list[EmbeddedTransport] = []
        failed: list[InfrastructureError] = []
        start = threading.Barrier(8)

        def open_it() -> None:
            start.wait(TIMEOUT)
            try:
                opened.append(EmbeddedTransport(path))
            except InfrastructureError as error:
                failed.append(error)

        threads = [threading.Thread(target=open_it) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
        for transport in opened:
            transport.close()
        assert failed == []
        assert len(opened) == 8


class TestFolder:
    def test_unusable_folder_is_reported(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(InfrastructureError, match="DATA_DIR"):
            EmbeddedTransport(tmp_path / "file" / "broker.sqlite")

    def test_file_that_is_not_a_database_is_an_infrastructure_error(self, path: Path) -> None:
        path.write_bytes(b"not a database" * 100)
        with pytest.raises(InfrastructureError):
            EmbeddedTransport(path)


class TestFullDisk:
    def limit(self, *databases: Database, pages: int) -> None:
        """Simulate a full disk: limit the file to ``pages``, or to its current size if it is larger."""
        for database in databases:
            database.query(f"PRAGMA max_page_count = {pages}", {})

    def test_full_disk_leaves_no_partial_writes_and_recovers(self, transport: EmbeddedTransport, path: Path) -> None:
        transport.publish(Message(JOBS, "k", b"first"))
        subscription = transport.subscribe([JOBS], "group")
        delivery = receive(subscription)
        databases = (transport._database, transport._reports, subscription._database)
        self.limit(*databases, pages=1)

        with pytest.raises(InfrastructureError) as refused:
            transport.publish(*[Message(JOBS, "k", bytes(100_000))] * 5)
        assert refused.value.code is ErrorCode.DISK_FULL
        with pytest.raises(InfrastructureError) as refused:
            subscription.settle(delivery, Message(RESULTS, "k", bytes(500_000)))
        assert refused.value.code is ErrorCode.DISK_FULL
        transport.emit(Message(JOBS, "k", bytes(500_000)))  # the report is lost; no error is raised

        assert rows(path, "SELECT count(*) FROM messages") == [(1,)]
        assert not delivery.cancel.is_set()
        self.limit(*databases, pages=1_000_000)
        subscription.settle(delivery, Message(RESULTS, "k", bytes(500_000)))
        assert rows(path, "SELECT topic, length(value) FROM messages ORDER BY seq") == [(JOBS, 5), (RESULTS, 500_000)]

    def test_full_file_system(self, small_disk: Path) -> None:
        transport = EmbeddedTransport(small_disk / "broker.sqlite")
        with pytest.raises(InfrastructureError) as refused:
            transport.publish(*[Message(JOBS, "k", bytes(90_000))] * 30)
        assert refused.value.code is ErrorCode.DISK_FULL
        transport.publish(Message(JOBS, "k", b"small"))
        transport.close()


def lease_to_another(transport: EmbeddedTransport, path: Path, lease_until: float) -> None:
    """Deliver the first job, and rewrite its lease."""
    transport.subscribe([JOBS], "group").receive(0.0)
    execute(path, f"UPDATE deliveries SET owner = 'other', lease_until = {lease_until}")


class TestLeases:
    def test_lease_from_before_a_reboot_has_expired(self, transport: EmbeddedTransport, path: Path) -> None:
        transport.publish(*jobs(1))
        lease_to_another(transport, path, time.monotonic() + 1e6)
        assert receive(transport.subscribe([JOBS], "group")).attempt == 2

    def test_current_lease_is_respected(self, transport: EmbeddedTransport, path: Path) -> None:
        transport.publish(*jobs(1))
        lease_to_another(transport, path, time.monotonic() + LEASE)
        subscription = transport.subscribe([JOBS], "group")
        assert subscription.receive(0.0) is None
        assert receive(subscription).attempt == 2

    def test_leases_do_not_depend_on_the_wall_clock(
        self, transport: EmbeddedTransport, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        transport.publish(*jobs(1))
        delivery = receive(transport.subscribe([JOBS], "group"))
        rival = transport.subscribe([JOBS], "group")
        real = time.time
        for shift in (-1e6, 1e6):
            monkeypatch.setattr(time, "time", lambda shift=shift: real() + shift)
            assert rival.receive(LEASE * 2) is None
        assert not delivery.cancel.is_set()

    def test_open_delivery_is_not_delivered_again_to_its_member(
        self, transport: EmbeddedTransport, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The lease has expired, as after the process was frozen, and its own member is the first to look.
        monkeypatch.setattr(EmbeddedSubscription, "_renew_leases", lambda _: None)
        transport.publish(*jobs(1))
        subscription = transport.subscribe([JOBS], "group")
        delivery = receive(subscription)
        execute(path, "UPDATE deliveries SET lease_until = 0")
        assert subscription.receive(0.2) is None
        subscription.settle(delivery)

    def test_lost_delivery_is_cancelled(self, transport: EmbeddedTransport, path: Path) -> None:
        transport.publish(*jobs(1))
        subscription = transport.subscribe([JOBS], "group")
        delivery = receive(subscription)
        cancelled = threading.Event()
        delivery.cancel.on_cancel(cancelled.set)
        execute(path, "UPDATE deliveries SET owner = 'other'")
        assert cancelled.wait(TIMEOUT)
        with pytest.raises(CancelledError):
            subscription.settle(delivery, *jobs(1, RESULTS))
        assert rows(path, "SELECT count(*) FROM messages WHERE topic = 'results'") == [(0,)]
        transport.publish(Message(JOBS, "next", b""))
        subscription.settle(receive(subscription))


class TestClosing:
    def test_open_deliveries_move_to_another_member_at_once(self, path: Path) -> None:
        transport = EmbeddedTransport(path, lease=3600.0)
        transport.publish(*jobs(2))
        first, second = transport.subscribe([JOBS], "group"), transport.subscribe([JOBS], "group")
        deliveries = [receive(first), receive(first)]
        assert second.receive(0.0) is None
        first.close()
        assert all(delivery.cancel.is_set() for delivery in deliveries)
        assert [receive(second).attempt for _ in range(2)] == [1, 1]
        transport.close()

    def test_closed_subscription_receives_nothing(self, transport: EmbeddedTransport) -> None:
        transport.publish(*jobs(1))
        subscription = transport.subscribe([JOBS], "group")
        subscription.close()
        subscription.close()
        assert subscription.receive(0.0) is None

    def test_settling_after_close_fails(self, transport: EmbeddedTransport) -> None:
        transport.publish(*jobs(1))
        subscription = transport.subscribe([JOBS], "group")
        delivery = receive(subscription)
        subscription.close()
        with pytest.raises(InfrastructureError):
            subscription.settle(delivery)


def purge_all(path: Path) -> None:
    with closing(Database(path, durable=False)) as database:
        purge(database, threading.Event())


#: Purges until SQLite's virtual machine has made 30,000 steps, which is in the middle of some transaction.
DYING_PURGE = """
import os, sys, threading
from pathlib import Path
from pipeline.transport.embedded.database import Database
from pipeline.transport.embedded.purge import purge

database = Database(Path(sys.argv[1]), durable=False)
database._connection.set_progress_handler(lambda: os._exit(9), 30_000)
purge(database, threading.Event())
"""


def file_size(path: Path) -> int:
    """Return the bytes of the file, with everything in the log applied."""
    rows(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    return path.stat().st_size


def count_rows(path: Path) -> dict[str, int]:
    tables = ("messages", "deliveries")
    return {table: rows(path, f"SELECT count(*) FROM {table}")[0][0] for table in tables}


@contextmanager
def counted_steps(subscription: EmbeddedSubscription) -> Iterator[list[int]]:
    """Count the steps of SQLite's virtual machine within the block; the list has as many entries."""
    steps: list[int] = []
    connection = subscription._database._connection
    connection.set_progress_handler(lambda: steps.append(1), 1)
    yield steps
    connection.set_progress_handler(None, 0)


def steps_of_a_poll(subscription: EmbeddedSubscription) -> int:
    with counted_steps(subscription) as steps:
        delivery = subscription.receive(0.0)
    if delivery is not None:
        subscription.release(delivery, count_attempt=False)
    return len(steps)


def steps_of_a_delivery(transport: EmbeddedTransport, subscription: EmbeddedSubscription) -> int:
    transport.publish(Message(JOBS, "next", b""))
    with counted_steps(subscription) as steps:
        subscription.settle(receive(subscription))
    return len(steps)


class TestHousekeeping:
    @pytest.mark.slow
    def test_deliveries_table_does_not_grow(
        self, transport: EmbeddedTransport, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        execute(path, "PRAGMA synchronous = OFF")
        transport.publish(*jobs(2000))
        subscription = transport.subscribe([JOBS], "group")
        subscription._database.query(
            "PRAGMA synchronous = OFF", {}
        )  # 4000 waits for the disk would only slow the test down
        straggler = receive(subscription)
        for _ in range(50):
            subscription.settle(receive(subscription))
        assert count_rows(path)["deliveries"] == SCHEDULE_SLICE - 50
        subscription.settle(straggler)
        for _ in range(2000 - 51):
            subscription.settle(receive(subscription))
        assert count_rows(path) == {"messages": 2000, "deliveries": 0}

    @pytest.mark.parametrize("crowd", ["waiting", "blocked by their key", "settled", "ready"])
    def test_costs_are_independent_of_other_messages(self, crowd: str, path: Path) -> None:
        """Counts the steps of SQLite's virtual machine instead of the time, which depends on the machine."""
        transport = EmbeddedTransport(path, lease=3600.0)  # so long that no background thread adds steps of its own
        waiting = {NOT_BEFORE: b"%d" % ((time.time() + 3600) * 1000)}
        transport.publish(Message(JOBS, "straggler", b"", waiting))
        subscription = transport.subscribe([JOBS], "group")
        alone = steps_of_a_poll(subscription), steps_of_a_delivery(transport, subscription)

        many = 3 * SCHEDULE_SLICE
        match crowd:
            case "waiting":
                transport.publish(*[Message(JOBS, f"key-{number}", b"", waiting) for number in range(many)])
            case "blocked by their key":
                transport.publish(*[Message(JOBS, "straggler", b"")] * many)
            case "settled":
                transport.publish(*jobs(many))
                execute(path, "UPDATE positions SET seq = (SELECT max(seq) + 1 FROM messages)")
            case "ready":
                transport.publish(*jobs(many))
                subscription.settle(receive(subscription))
        if crowd != "ready":
            assert subscription.receive(1.0) is None
        crowded = steps_of_a_poll(subscription), steps_of_a_delivery(transport, subscription)
        assert crowded[0] < 2 * alone[0]
        assert crowded[1] < 2 * alone[1]
        transport.close()

    def test_purge_drops_expired_settled_messages_only(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        transport = EmbeddedTransport(path, lease=LEASE)
        transport.ensure_topics([Topic(JOBS, 10), Topic("kept", None), Topic(REPORTS, 10, reports=True)])
        others = transport.subscribe(["kept", REPORTS], "group")
        subscription = transport.subscribe([JOBS], "group")
        transport.publish(*jobs(3), *jobs(1, "kept"), *jobs(2, REPORTS))
        for _ in range(2):
            subscription.settle(receive(subscription))
        held = receive(subscription)
        execute(path, "UPDATE messages SET published = published - 100 WHERE topic <> 'jobs' OR seq <> 1")

        purge_all(path)

        remaining = rows(path, "SELECT topic, key FROM messages ORDER BY seq")
        assert remaining == [(JOBS, "key-0"), (JOBS, "key-2"), ("kept", "key-0")]
        subscription.settle(held)
        assert receive(others).message.topic == "kept"
        transport.close()

    def test_purge_keeps_messages_that_one_group_has_not_settled(
        self, transport: EmbeddedTransport, path: Path
    ) -> None:
        transport.publish(*jobs(1))
        quick, slow = transport.subscribe([JOBS], "quick"), transport.subscribe([JOBS], "slow")
        quick.settle(receive(quick))
        execute(path, "UPDATE messages SET published = 0")
        purge_all(path)
        slow.settle(receive(slow))
        purge_all(path)
        assert count_rows(path)["messages"] == 0

    def test_group_that_joins_during_a_purge_loses_nothing(self, transport: EmbeddedTransport, path: Path) -> None:
        transport.publish(*jobs(2))
        quick = transport.subscribe([JOBS], "quick")
        for _ in range(2):
            quick.settle(receive(quick))
        execute(path, "UPDATE messages SET published = 0")
        late: list[EmbeddedSubscription] = []

        class SlowDatabase(Database):
            @contextmanager
            def transaction(self) -> Iterator[sqlite3.Connection]:
                if not late:  # the messages to drop have been chosen
                    late.append(transport.subscribe([JOBS], "late"))
                    late[0].release(receive(late[0]), count_attempt=False)
                with super().transaction() as connection:
                    yield connection

        with closing(SlowDatabase(path, durable=False)) as database:
            purge(database, threading.Event())
        assert [receive(late[0]).message.key for _ in range(2)] == ["key-0", "key-1"]

    def test_purge_may_drop_an_open_report(self, transport: EmbeddedTransport, path: Path) -> None:
        transport.emit(*jobs(1, REPORTS))
        subscription = transport.subscribe([REPORTS], "group")
        held = receive(subscription)
        execute(path, "UPDATE messages SET published = 0")
        purge_all(path)
        assert count_rows(path)["messages"] == 0

        subscription.settle(held)

        assert count_rows(path) == {"messages": 0, "deliveries": 0}
        transport.emit(*jobs(1, REPORTS))
        assert receive(subscription).attempt == 1

    def test_held_report_that_was_dropped_is_not_delivered_again(
        self, transport: EmbeddedTransport, path: Path
    ) -> None:
        transport.emit(Message(REPORTS, "k", b"first"), Message(REPORTS, "k", b"second"))
        subscription = transport.subscribe([REPORTS], "group")
        held = receive(subscription)
        execute(path, "UPDATE messages SET published = 0 WHERE value = CAST('first' AS BLOB)")
        purge_all(path)
        subscription.release(held, count_attempt=True)
        assert receive(subscription).message.value == b"second"

    def test_dropped_report_no_longer_holds_up_its_key(self, transport: EmbeddedTransport, path: Path) -> None:
        waiting = {NOT_BEFORE: b"%d" % ((time.time() + 3600) * 1000)}
        transport.emit(Message(REPORTS, "k", b"", waiting), Message(REPORTS, "k", b"second"))
        subscription = transport.subscribe([REPORTS], "group")
        assert subscription.receive(0.0) is None
        execute(path, "UPDATE messages SET published = 0 WHERE due > 0")
        purge_all(path)
        assert receive(subscription).message.value == b"second"

    def test_purge_gives_the_space_back(self, transport: EmbeddedTransport, path: Path) -> None:
        transport.publish(Message("kept", "k", b"kept"))
        transport.emit(*[Message(REPORTS, "k", bytes(100_000))] * 50)
        execute(path, "UPDATE messages SET published = 0")
        transport.publish(*jobs(1))  # written last, at the end of the file
        assert file_size(path) > 5_000_000

        purge_all(path)

        assert file_size(path) < 200_000
        assert [stored.message.key for stored in transport.browse(JOBS)] == ["key-0"]
        assert rows(path, "PRAGMA integrity_check") == [("ok",)]

    def test_others_write_during_a_purge(self, transport: EmbeddedTransport, path: Path) -> None:
        transport.emit(*jobs(5000, REPORTS))
        execute(path, "UPDATE messages SET published = 0")
        thread = threading.Thread(target=purge_all, args=(path,))
        thread.start()
        with closing(EmbeddedTransport(path, publish_timeout=0.0)) as impatient:  # never waits for the lock
            while thread.is_alive() and not rows(path, "SELECT 1 FROM messages WHERE topic = 'jobs'"):
                with suppress(InfrastructureError):
                    impatient.publish(*jobs(1))
            reports = rows(path, "SELECT count(*) FROM messages WHERE topic = 'reports'")
        thread.join()
        assert reports > [(0,)]
        assert count_rows(path)["messages"] == 1

    def test_purge_that_is_stopped_keeps_the_rest(self, transport: EmbeddedTransport, path: Path) -> None:
        transport.emit(*jobs(2000, REPORTS))
        execute(path, "UPDATE messages SET published = 0")
        stop = threading.Event()
        with closing(Database(path, durable=False)) as database:
            thread = threading.Thread(target=purge, args=(database, stop))
            thread.start()
            while count_rows(path)["messages"] == 2000:
                pass
            stop.set()
            thread.join()
        assert 0 < count_rows(path)["messages"] < 2000
        purge_all(path)
        assert count_rows(path)["messages"] == 0

    def test_purge_that_dies_leaves_the_rest(self, transport: EmbeddedTransport, path: Path) -> None:
        transport.publish(*jobs(1))
        transport.emit(*jobs(2000, REPORTS))
        execute(path, "UPDATE messages SET published = 0")
        assert subprocess.run([sys.executable, "-c", DYING_PURGE, str(path)], cwd=ROOT, check=False).returncode == 9
        assert 1 < count_rows(path)["messages"] < 2001
        assert rows(path, "PRAGMA integrity_check") == [("ok",)]
        purge_all(path)
        assert receive(transport.subscribe([JOBS], "group")).message.key == "key-0"
        assert count_rows(path)["messages"] == 1

    def test_purge_runs_in_the_background(
        self, path: Path, transport: EmbeddedTransport, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transport_module, "PURGE_INTERVAL", 0.0)
        transport.emit(*jobs(1, REPORTS))
        execute(path, "UPDATE messages SET published = 0")
        transport.subscribe([REPORTS], "group")
        deadline = time.monotonic() + TIMEOUT
        while count_rows(path)["messages"]:
            assert time.monotonic() < deadline
            threading.Event().wait(0.02)


OPENERS = """
import sys
from pathlib import Path
from pipeline.transport.embedded.database import Database
print("ready", flush=True)
for line in sys.stdin:
    Database(Path(line.strip()), durable=True).close()
    print("opened", flush=True)
"""


class TestFile:
    """The file is opened by many, held by others, removed, replaced."""

    def test_new_file_can_be_opened_by_several_processes_at_once(self, tmp_path: Path) -> None:
        command = [sys.executable, "-c", OPENERS]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
        processes = [subprocess.Popen(command, **pipes) for _ in range(3)]  # type: ignore[call-overload]
        try:
            for process in processes:
                assert process.stdout.readline() == "ready\n"
            for number in range(60):
                for process in processes:
                    process.stdin.write(f"{tmp_path}/{number}.sqlite\n")
                    process.stdin.flush()
                for process in processes:
                    assert process.stdout.readline() == "opened\n"
        finally:
            for process in processes:
                process.kill()
                process.communicate()

    def test_calls_wait_no_longer_than_the_timeout_together(self, path: Path, transport: EmbeddedTransport) -> None:
        """Another process holds the lock: each of many callers has its own deadline, however many are before it."""
        front_door = EmbeddedTransport(path, publish_timeout=0.3)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        waits: list[float] = []

        def publish() -> None:
            started = time.monotonic()
            with pytest.raises(InfrastructureError):
                front_door.publish(*jobs(1))
            waits.append(time.monotonic() - started)

        threads = [threading.Thread(target=publish) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        other.execute("ROLLBACK")
        other.close()
        front_door.close()
        assert len(waits) == 20
        assert max(waits) < 20 * 0.3 / 2, "they do not queue behind each other"

    @pytest.mark.parametrize("way", ["removed", "removed with its log", "folder removed", "replaced", "older copy"])
    def test_vanished_file_loses_nothing(self, way: str, path: Path, transport: EmbeddedTransport) -> None:
        other = EmbeddedTransport(path, lease=LEASE)  # as another process has it
        subscription = other.subscribe([JOBS], "group")
        transport.publish(*jobs(6))
        subscription.settle(receive(subscription), Message(RESULTS, "r", b"of the first"))
        in_hand = receive(subscription)
        copy = path.with_name("copy")
        if way == "older copy":
            with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
                source.backup(target)
            source.close()
            target.close()
            subscription.settle(in_hand)
            transport.publish(Message(JOBS, "key-6", b""))
        match way:
            case "removed":
                path.unlink()
            case "removed with its log":
                for name in path.parent.glob("broker.sqlite*"):
                    name.unlink()
            case "folder removed":
                shutil.rmtree(path.parent)
            case "replaced":
                EmbeddedTransport(copy).close()
                copy.replace(path)
            case "older copy":
                copy.replace(path)
        transport.publish(Message(JOBS, "key-last", b""))
        done = {"key-0"} | ({"key-1"} if way == "older copy" else set())
        expected = {message.key for message in jobs(7 if way == "older copy" else 6)} - done | {"key-last"}
        keys: set[str] = set()
        while not expected <= keys:
            delivery = receive(subscription)
            with suppress(CancelledError):
                subscription.settle(delivery)
                keys.add(delivery.message.key)
        assert in_hand.cancel.is_set() or way == "older copy"
        with pytest.raises(CancelledError):
            subscription.settle(in_hand)
        assert [stored.message.value for stored in transport.browse(RESULTS)] == [b"of the first"]
        other.close()
        transport.publish(Message(RESULTS, "r", b"later"))
        with sqlite3.connect(path) as current:
            assert current.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert current.execute("SELECT count(*) FROM messages WHERE value = 'later'").fetchone() is not None
        current.close()

    def test_message_is_on_the_disk_under_the_path_when_publish_returns(
        self, path: Path, transport: EmbeddedTransport
    ) -> None:
        """The file is removed between the beginning of the transaction and its commit."""
        with transport._database.transaction() as connection:
            for name in path.parent.glob("broker.sqlite*"):
                name.unlink()
            connection.execute(
                "INSERT INTO messages (topic, key, value, headers, published) VALUES ('jobs', 'k', x'01', '{}', 0)"
            )
        assert rows(path, "SELECT topic, key FROM messages") == [("jobs", "k")]
