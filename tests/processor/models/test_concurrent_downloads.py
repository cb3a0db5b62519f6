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

from processor.models.catalogue import ModelFile
from processor.models.file_lock import exclusive_lock
from processor.models.lockfile import LOCK_FILE, LockFile, record
from tests.processor.models.model_source import DEADLINE, Ranged, SecureSource, served, visible, wait_for_pieces

REPOSITORY = Path(__file__).resolve().parents[3]
MODEL = os.urandom(4 * 1024**2)

FETCH = """
import sys
from pathlib import Path
from processor.models.catalogue import ModelFile
from tests.processor.models.model_source import secure_store
path = Path(sys.argv[2])
secure_store(path.parent, Path(sys.argv[3])).pull(ModelFile(path.name, (sys.argv[1],)))
"""


@contextmanager
def fetching(source: SecureSource, target: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", FETCH, source.url("/model.onnx"), str(target), str(source.ca_bundle)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def test_download_of_a_killed_process_is_resumed(tmp_path: Path, source: SecureSource) -> None:
    behaviour = Ranged(MODEL, hold_after=3 * 1024**2)
    source.add("/model.onnx", behaviour)
    target = tmp_path / "model.onnx"
    with fetching(source, target) as process:
        known = wait_for_pieces(tmp_path / ".incoming" / "model.onnx")
        process.kill()
        assert process.wait(DEADLINE) == -signal.SIGKILL
    assert visible(tmp_path) == []
    behaviour.release()
    behaviour.sent = 0

    source.store(tmp_path).pull(ModelFile("model.onnx", (source.url("/model.onnx"),)))

    assert target.read_bytes() == MODEL
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", LOCK_FILE]
    assert behaviour.sent <= len(MODEL) - known


def test_two_processes_download_a_file_once(tmp_path: Path, source: SecureSource) -> None:
    behaviour = Ranged(MODEL, hold_after=1024**2)
    source.add("/model.onnx", behaviour)
    target = tmp_path / "model.onnx"
    with fetching(source, target) as first:
        source.wait_for_requests(1)
        with fetching(source, target) as second:
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


def test_waiting_process_uses_the_other_s_file(tmp_path: Path, source: SecureSource) -> None:
    source.add("/model.onnx", served(MODEL))
    target = tmp_path / "model.onnx"
    with ExitStack() as holder:
        holder.enter_context(exclusive_lock(tmp_path / ".incoming" / "model.onnx.lock"))
        with fetching(source, target) as process:
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
