"""Several processes with one folder of models, and recovery after one of them is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from filelock import Timeout

from processor.models.file_lock import exclusive_lock
from processor.models.lockfile import LOCK_FILE, LockFile, record
from tests.processor.models.model_source import DEADLINE, Ranged, served, store_in, visible, wait_for_pieces
from tests.support.source_server import SourceServer

REPOSITORY = Path(__file__).resolve().parents[3]
MODEL = os.urandom(4 * 1024**2)

FETCH = """
import sys
from pathlib import Path
from tests.processor.models.model_source import store_in
path = Path(sys.argv[2])
store_in(path.parent).fetch(sys.argv[1], str(path))
"""


@pytest.fixture
def source() -> Iterator[SourceServer]:
    with SourceServer() as server:
        yield server


@contextmanager
def fetching(url: str, target: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", FETCH, url, str(target)], cwd=REPOSITORY, stdout=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_download_of_a_killed_process_is_resumed(tmp_path: Path, source: SourceServer) -> None:
    behaviour = Ranged(MODEL, hold_after=3 * 1024**2)
    source.add("/model.onnx", behaviour)
    url, target = source.url("/model.onnx"), tmp_path / "model.onnx"
    with fetching(url, target) as process:
        known = wait_for_pieces(tmp_path / ".incoming" / "model.onnx")
        process.kill()
        assert process.wait(DEADLINE) == -signal.SIGKILL
    assert visible(tmp_path) == []
    behaviour.release()
    behaviour.sent = 0

    store_in(tmp_path).fetch(url, str(target))

    assert target.read_bytes() == MODEL
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", LOCK_FILE]
    assert behaviour.sent <= len(MODEL) - known


def test_two_processes_download_a_file_once(tmp_path: Path, source: SourceServer) -> None:
    behaviour = Ranged(MODEL, hold_after=1024**2)
    source.add("/model.onnx", behaviour)
    url, target = source.url("/model.onnx"), tmp_path / "model.onnx"
    with fetching(url, target) as first:
        source.wait_for_requests(1)
        with fetching(url, target) as second:
            wait_until_blocked(second)
            first.kill()  # releases the lock
            behaviour.release()
            assert second.wait(DEADLINE) == 0
    assert target.read_bytes() == MODEL
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", LOCK_FILE]


def wait_until_blocked(process: subprocess.Popen[bytes]) -> None:
    """Wait until the process logs that another one holds the lock."""
    assert process.stdout is not None
    assert any(b"model_file_awaited" in line for line in process.stdout)


def test_waiting_process_uses_the_other_s_file(tmp_path: Path, source: SourceServer) -> None:
    source.add("/model.onnx", served(MODEL))
    url, target = source.url("/model.onnx"), tmp_path / "model.onnx"
    with ExitStack() as holder:
        holder.enter_context(exclusive_lock(tmp_path / ".incoming" / "model.onnx.lock"))
        with fetching(url, target) as process:
            wait_until_blocked(process)
            target.write_bytes(b"by another process")
            holder.close()
            assert process.wait(DEADLINE) == 0
    assert source.connections == 0
    assert target.read_bytes() == b"by another process"
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_records_of_several_processes_are_kept(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from processor.models.lockfile import LockFile, record\n"
        "for i in range(8): LockFile(Path(sys.argv[1])).set(f'{sys.argv[2]}-{i}', record('0' * 64, i, 'here'))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path), name], cwd=REPOSITORY) for name in ("a", "b")
    ]
    for i in range(8):
        LockFile(tmp_path).set(f"c-{i}", record("0" * 64, i, "here"))
    assert [process.wait(DEADLINE) for process in processes] == [0, 0]
    assert LockFile(tmp_path).records().keys() == {f"{name}-{i}" for name in "abc" for i in range(8)}
    assert os.listdir(tmp_path) == [LOCK_FILE]


def test_waiting_thread_gets_an_exclusive_lock(tmp_path: Path) -> None:
    """It must not lock the file that the previous holder has removed."""
    lock = tmp_path / "lock"
    waiting, taken, done = (threading.Event() for _ in range(3))

    def wait() -> None:
        with exclusive_lock(lock, on_wait=waiting.set):
            taken.set()
            done.wait(DEADLINE)

    thread = threading.Thread(target=wait)
    with exclusive_lock(lock):
        thread.start()
        assert waiting.wait(DEADLINE)
    assert taken.wait(DEADLINE)
    with pytest.raises(Timeout), exclusive_lock(lock, wait=False):
        pass
    done.set()
    thread.join(DEADLINE)


def test_lock_is_exclusive(tmp_path: Path) -> None:
    lock = tmp_path / "locks" / "one"
    with exclusive_lock(lock):
        with pytest.raises(Timeout), exclusive_lock(lock, wait=False):
            pass
        assert lock.exists()
    assert not lock.exists()
    with exclusive_lock(lock, wait=False):
        pass
