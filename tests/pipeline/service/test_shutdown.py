"""The shutdown of a process: signals, deadline, exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.service.shutdown import ExitCode, StopSignal
from tests.support.log_lines import lines_until

ROOT = Path(__file__).parents[3]
DEADLINE = 20.0

#: A worker with one job. Prints what happens, one word per line.
WORKER = """
import sys, threading
from config import LogSettings
from pipeline.service.shutdown import ExitCode, StopSignal
from pipeline.service.logs import configure_logging

how, grace = sys.argv[1], float(sys.argv[2])
configure_logging("worker", LogSettings())

def report(word):
    sys.stdout.write(word + "\\n")
    sys.stdout.flush()

stop = StopSignal(grace)
stop.install()
released = threading.Event()
stop.on_deadline("job", lambda: (report("deadline"), released.set()))
if how in ("hangs", "blocks-the-listeners"):
    stop.on_request(lambda: report("requested"))
report("working")
if how == "finishes":
    stop.wait(60)
    stop.discard_on_deadline("job")
    report("finished")
elif how == "finishes-slowly":
    sys.stdin.readline()
    report("finished")
elif how == "hangs":
    released.wait(60)
    report("released")
elif how == "blocks-the-listeners":
    stop.on_request(lambda: threading.Event().wait(60))
    released.wait(60)
elif how == "is-busy":
    # The signal may arrive anywhere in this loop, with any of these locks held.
    event = threading.Event()
    while not stop.is_set():
        event.set(); event.wait(0.001); event.clear(); stop.wait(0.0); threading.Thread(target=int).start()
    report("finished")
sys.exit(ExitCode.OK)
"""


class Worker:
    """The script above in a separate process."""

    def __init__(self, how: str, grace: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, how, str(grace)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def next_word(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def exit_status(self) -> int:
        return self.process.wait(DEADLINE)


@pytest.fixture
def start() -> Iterator[type[Worker]]:
    workers: list[Worker] = []

    class Started(Worker):
        def __init__(self, how: str, grace: float = 60.0) -> None:
            super().__init__(how, grace)
            workers.append(self)
            assert self.next_word() == "working"

    yield Started
    for worker in workers:
        worker.process.kill()
        worker.process.communicate()


class TestFirstSignal:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_current_job_may_finish(self, start: type[Worker], number: signal.Signals) -> None:
        worker = start("finishes", 60.0)
        worker.process.send_signal(number)
        assert worker.next_word() == "finished"
        assert worker.exit_status() == ExitCode.OK

    def test_job_is_released_at_the_deadline(self, start: type[Worker]) -> None:
        worker = start("hangs", 0.2)
        worker.process.send_signal(signal.SIGTERM)
        assert [worker.next_word() for _ in range(3)] == ["requested", "deadline", "released"]
        assert worker.exit_status() == ExitCode.OK

    def test_signal_arrives_while_the_main_thread_is_busy(self, start: type[Worker]) -> None:
        for _ in range(5):
            worker = start("is-busy", 60.0)
            worker.process.send_signal(signal.SIGTERM)
            assert worker.next_word() == "finished"
            assert worker.exit_status() == ExitCode.OK


class TestSecondSignal:
    def test_signals_within_a_moment_are_one(self, start: type[Worker]) -> None:
        worker = start("finishes-slowly", 60.0)
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            worker.process.send_signal(number)
        lines_until(worker.process, "stopping_gracefully")  # From now on, a signal would end it.
        worker.tell("finish")
        assert worker.next_word() == "finished"
        assert worker.exit_status() == ExitCode.OK

    @pytest.mark.parametrize("how", ["hangs", "blocks-the-listeners"])
    @pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
    def test_process_ends_at_once(self, start: type[Worker], how: str, second: signal.Signals) -> None:
        worker = start(how, 60.0)
        worker.process.send_signal(signal.SIGTERM)
        assert worker.next_word() == "requested"
        lines_until(worker.process, "stopping_gracefully")
        worker.process.send_signal(second)
        assert worker.exit_status() == ExitCode.KILLED
        assert worker.next_word() == ""


def test_exit_codes() -> None:
    """The codes are those of sysexits.h, and 128 + SIGINT as shells report it."""
    codes = {code.name: int(code) for code in ExitCode}
    assert codes == {
        "OK": 0,
        "UNAVAILABLE": os.EX_UNAVAILABLE,
        "INTERNAL": os.EX_SOFTWARE,
        "REFUSED": os.EX_NOPERM,
        "CONFIG": os.EX_CONFIG,
        "KILLED": 128 + signal.SIGINT,
    }


class TestRequests:
    """Shutdown requests without signals."""

    def test_second_request_changes_nothing(self) -> None:
        stop = StopSignal(60.0)
        called: list[str] = []
        stop.on_request(lambda: called.append("stop"))
        stop.request("a test")
        stop.request("a test")
        assert stop.is_set()
        assert called == ["stop"]

    def test_late_listeners_are_called_at_once(self) -> None:
        stop = StopSignal(0.0)
        called: list[str] = []
        over = threading.Event()
        stop.on_deadline("first", over.set)
        stop.request("a test")
        stop.on_request(lambda: called.append("request"))
        assert over.wait(DEADLINE)
        stop.on_deadline("late", lambda: called.append("deadline"))
        assert called == ["request", "deadline"]

    def test_finished_job_is_not_released(self) -> None:
        stop = StopSignal(0.05)
        called: list[str] = []
        over = threading.Event()
        stop.on_deadline("done", lambda: called.append("done"))
        stop.on_deadline("running", over.set)
        stop.discard_on_deadline("done")
        stop.request("a test")
        assert over.wait(DEADLINE)
        assert called == []

    def test_request_wakes_waiting_threads(self) -> None:
        stop = StopSignal(60.0)
        assert not stop.wait(0.0)
        threading.Thread(target=stop.request, args=("a test",)).start()
        assert stop.wait(DEADLINE)
