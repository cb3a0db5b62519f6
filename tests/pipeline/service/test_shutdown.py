"""How a process stops: real signals to a real process."""

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

ROOT = Path(__file__).parents[3]
PATIENCE = 20.0

#: A worker with one job in hand. It says what happens, a word a line.
WORKER = """
import sys, threading
from config import LogSettings
from pipeline.service.shutdown import ExitCode, StopSignal
from pipeline.service.logs import configure_logging

how, grace = sys.argv[1], float(sys.argv[2])
configure_logging("worker", LogSettings())

def say(word):
    sys.stdout.write(word + "\\n")
    sys.stdout.flush()

stop = StopSignal(grace)
stop.install()
given_back = threading.Event()
stop.on_deadline("job", lambda: (say("deadline"), given_back.set()))
if how in ("hangs", "blocks-the-listeners"):
    stop.on_request(lambda: say("requested"))
say("working")
if how == "finishes":
    stop.wait(60)
    stop.forget("job")
    say("finished")
elif how == "hangs":
    given_back.wait(60)
    say("given-back")
elif how == "blocks-the-listeners":
    stop.on_request(lambda: threading.Event().wait(60))
    given_back.wait(60)
elif how == "is-busy":
    # The handler may run anywhere in here, with any of these locks held.
    event = threading.Event()
    while not stop.is_set():
        event.set(); event.wait(0.001); event.clear(); stop.wait(0.0); threading.Thread(target=int).start()
    say("finished")
sys.exit(ExitCode.OK)
"""


class Worker:
    """The script above, in a process of its own."""

    def __init__(self, how: str, grace: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, how, str(grace)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ends_with(self) -> int:
        return self.process.wait(PATIENCE)


@pytest.fixture
def start() -> Iterator[type[Worker]]:
    workers: list[Worker] = []

    class Started(Worker):
        def __init__(self, how: str, grace: float = 60.0) -> None:
            super().__init__(how, grace)
            workers.append(self)
            assert self.says() == "working"

    yield Started
    for worker in workers:
        worker.process.kill()
        worker.process.communicate()


class TestTheFirstSignal:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_lets_the_job_finish(self, start: type[Worker], number: signal.Signals) -> None:
        worker = start("finishes", 60.0)
        worker.process.send_signal(number)
        assert worker.says() == "finished"
        assert worker.ends_with() == ExitCode.OK

    def test_gives_the_job_back_when_the_grace_is_over(self, start: type[Worker]) -> None:
        worker = start("hangs", 0.2)
        worker.process.send_signal(signal.SIGTERM)
        assert [worker.says() for _ in range(3)] == ["requested", "deadline", "given-back"]
        assert worker.ends_with() == ExitCode.OK

    def test_is_seen_whatever_the_main_thread_is_at(self, start: type[Worker]) -> None:
        for _ in range(5):
            worker = start("is-busy", 60.0)
            worker.process.send_signal(signal.SIGTERM)
            assert worker.says() == "finished"
            assert worker.ends_with() == ExitCode.OK


class TestTheSecondSignal:
    @pytest.mark.parametrize("how", ["hangs", "blocks-the-listeners"])
    @pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
    def test_ends_the_process_at_once(self, start: type[Worker], how: str, second: signal.Signals) -> None:
        worker = start(how, 60.0)
        worker.process.send_signal(signal.SIGTERM)
        assert worker.says() == "requested"
        worker.process.send_signal(second)
        assert worker.ends_with() == ExitCode.KILLED
        assert worker.says() == ""


def test_exit_codes_are_those_of_the_manual() -> None:
    """sysexits.h, and 128 + SIGINT as shells report it."""
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
    """The same without signals."""

    def test_a_second_request_changes_nothing(self) -> None:
        stop = StopSignal(60.0)
        called: list[str] = []
        stop.on_request(lambda: called.append("stop"))
        stop.request("a test")
        stop.request("a test")
        assert stop.is_set()
        assert called == ["stop"]

    def test_whoever_listens_late_is_told_at_once(self) -> None:
        stop = StopSignal(0.0)
        called: list[str] = []
        over = threading.Event()
        stop.on_deadline("first", over.set)
        stop.request("a test")
        stop.on_request(lambda: called.append("request"))
        assert over.wait(PATIENCE)
        stop.on_deadline("late", lambda: called.append("deadline"))
        assert called == ["request", "deadline"]

    def test_a_job_that_is_done_is_not_given_back(self) -> None:
        stop = StopSignal(0.05)
        called: list[str] = []
        over = threading.Event()
        stop.on_deadline("done", lambda: called.append("done"))
        stop.on_deadline("running", over.set)
        stop.forget("done")
        stop.request("a test")
        assert over.wait(PATIENCE)
        assert called == []

    def test_a_sleeper_is_woken(self) -> None:
        stop = StopSignal(60.0)
        assert not stop.wait(0.0)
        threading.Thread(target=stop.request, args=("a test",)).start()
        assert stop.wait(PATIENCE)
