"""Test that one process at a time runs the services of a checkout, and that other processes can find and stop it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.errors import DevstackError
from devstack.state import Running, held_claim, status, stop

HOLDER = """
import signal, sys
from pathlib import Path
from devstack.state import held_claim
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
with held_claim(Path(sys.argv[1]), "taken") as claim:
    claim.announce("http://127.0.0.1:1")
    print("held", flush=True)
    signal.sigwait({signal.SIGTERM})
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "stack.json"


@pytest.fixture
def holder(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start another process that holds the claim."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_status_and_stop_when_nothing_runs(path: Path) -> None:
    assert status(path) is None
    assert not stop(path)


def test_one_process_at_a_time_holds_the_claim(path: Path) -> None:
    with held_claim(path, "taken") as claim:
        assert status(path) == Running(os.getpid(), None)
        claim.announce("http://127.0.0.1:1")
        assert status(path) == Running(os.getpid(), "http://127.0.0.1:1")
        with pytest.raises(DevstackError, match="taken"), held_claim(path, "taken"):
            pytest.fail("held twice")
    assert status(path) is None
    with held_claim(path, "taken"):
        pass


def test_stop_waits_for_the_end_of_the_process(path: Path, holder: subprocess.Popen[bytes]) -> None:
    assert status(path) == Running(holder.pid, "http://127.0.0.1:1")
    assert stop(path)
    assert holder.wait(20) == 0
    assert status(path) is None


def test_killed_holder_releases_the_claim(path: Path, holder: subprocess.Popen[bytes]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert status(path) is None
    with held_claim(path, "taken"):
        pass
