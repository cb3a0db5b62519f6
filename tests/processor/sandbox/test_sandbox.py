"""A decoder that its file has taken over reaches nothing, and its end is the source's failure."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from structlog.testing import capture_logs

from pipeline.cancellation import CancelToken
from pipeline.errors import (
    CancelledError,
    ErrorCode,
    InfrastructureError,
    PermanentError,
    PipelineError,
    TransientError,
)
from processor.audio.wav import write_wav
from processor.sandbox.client import AudioSandbox
from tests.processor.pipeline_harness import shared_sandbox
from tests.processor.source_files import noise, write_pcm
from tests.processor.workbench import open_bench
from tests.processor.worker_threads import DEADLINE, eventually, open_worker_threads

COMMAND = (sys.executable, "-m", "tests.processor.sandbox.hostile")
#: What the filter of system calls, Landlock and the permissions answer.
DENIED = {"ENOSYS", "EACCES", "EPERM", "EAGAIN"}


@pytest.fixture(scope="module")
def hostile() -> Iterator[AudioSandbox]:
    """Yield a sandbox whose decoder is taken over by every file. Tests may kill its server."""
    os.environ["S3_SECRET_KEY"] = os.environ["NEW_PASSWORD"] = "secret"
    try:
        sandbox = AudioSandbox(COMMAND)
    finally:
        del os.environ["S3_SECRET_KEY"], os.environ["NEW_PASSWORD"]
    yield sandbox
    sandbox.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a job."""
    folder = tmp_path / "job"
    folder.mkdir()
    return folder


def source(folder: Path, behaviour: str) -> Path:
    path = folder / "source"
    path.write_text(behaviour)
    return path


def failure(sandbox: AudioSandbox, folder: Path, behaviour: str, cancel: CancelToken | None = None) -> PipelineError:
    """Return the error of probing a source with this behaviour."""
    with (
        pytest.raises(PipelineError) as caught,
        sandbox.open(folder, max_seconds=5, cancel=cancel or CancelToken()) as decoder,
    ):
        decoder.probe(source(folder, behaviour))
    return caught.value


def finding(sandbox: AudioSandbox, folder: Path, behaviour: str) -> str:
    """Return what a behaviour has found out."""
    error = failure(sandbox, folder, behaviour)
    assert error.code is ErrorCode.NOT_AUDIO, error
    return error.message


def require(sandbox: AudioSandbox, folder: Path, protection: str) -> None:
    """Skip a test where the kernel or the container does not offer a protection."""
    sandbox.check(folder)
    status = sandbox.status()
    assert status is not None
    if not status[protection]:
        pytest.skip(f"this kernel offers no {protection}")


# --- what it cannot reach ---


def test_environment_has_no_credentials(hostile: AudioSandbox, folder: Path) -> None:
    names = finding(hostile, folder, "environment").split()
    assert "PATH" in names
    assert {"S3_SECRET_KEY", "NEW_PASSWORD"}.isdisjoint(names)


def test_descriptors_are_closed(hostile: AudioSandbox, folder: Path) -> None:
    assert finding(hostile, folder, "descriptors") == "0 1 2 3"


def test_resources_are_limited(hostile: AudioSandbox, folder: Path) -> None:
    assert finding(hostile, folder, "limits") == "(32, 32) (0, 0) (0, 0)"


@pytest.mark.parametrize(
    "file", ["{tests}", "/etc/passwd", "/proc/{pid}/environ", "/proc/{pid}/mem", "/proc/self/maps"]
)
def test_other_files_cannot_be_read(hostile: AudioSandbox, folder: Path, file: str) -> None:
    require(hostile, folder, "landlock")
    path = file.format(tests=__file__, pid=os.getpid())
    assert finding(hostile, folder, f"read {path}") in DENIED


@pytest.mark.parametrize("behaviour", ["write", "delete", "rename", "permit", "link"])
def test_other_files_cannot_be_changed(hostile: AudioSandbox, folder: Path, tmp_path: Path, behaviour: str) -> None:
    require(hostile, folder, "landlock")
    require(hostile, folder, "seccomp")
    other = tmp_path / "other"
    if behaviour not in ("link", "write"):
        other.touch()
    assert finding(hostile, folder, f"{behaviour} {other}") in DENIED
    assert other.exists() == (behaviour not in ("link", "write"))


def test_folder_of_another_job_is_not_reachable(hostile: AudioSandbox, folder: Path, tmp_path: Path) -> None:
    require(hostile, folder, "landlock")
    other = tmp_path / "job-of-another-client"
    other.mkdir()
    (other / "source").touch()
    assert finding(hostile, folder, f"read {other / 'source'}") in DENIED
    assert finding(hostile, folder, f"write {folder / '..' / other.name / 'source'}") in DENIED


def test_own_folder_is_writable(hostile: AudioSandbox, folder: Path) -> None:
    assert finding(hostile, folder, f"write {folder / 'decoded.wav'}") == "written"


@pytest.mark.parametrize("behaviour", ["link", "rename", "permit"])
def test_names_in_the_own_folder_stay(hostile: AudioSandbox, folder: Path, behaviour: str) -> None:
    require(hostile, folder, "seccomp")
    if behaviour != "link":
        (folder / "mixture.wav").touch()
    assert finding(hostile, folder, f"{behaviour} {folder / 'mixture.wav'}") in DENIED


@pytest.mark.parametrize("behaviour", ["connect", "datagram"])
def test_network_is_not_reachable(hostile: AudioSandbox, folder: Path, behaviour: str) -> None:
    require(hostile, folder, "seccomp")
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert finding(hostile, folder, f"{behaviour} {server.getsockname()[1]}") in DENIED
    status = hostile.status()
    assert status is not None
    assert status["network"] is False


def test_unix_socket_is_not_reachable(hostile: AudioSandbox, folder: Path) -> None:
    require(hostile, folder, "seccomp")
    path = folder / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        assert finding(hostile, folder, f"unix_socket {path}") in DENIED


@pytest.mark.parametrize("behaviour", ["execute", "replace", "fork", "thread"])
def test_no_other_process_is_started(hostile: AudioSandbox, folder: Path, behaviour: str) -> None:
    require(hostile, folder, "seccomp")
    assert finding(hostile, folder, behaviour) in DENIED


@pytest.mark.parametrize("behaviour", ["kill", "limit", "trace", "peek", "kill_server"])
def test_other_processes_are_not_reachable(hostile: AudioSandbox, folder: Path, behaviour: str) -> None:
    require(hostile, folder, "seccomp")
    assert finding(hostile, folder, f"{behaviour} {os.getpid()}") in DENIED


def test_sources_are_decoded_where_the_kernel_forbids_the_protections(folder: Path) -> None:
    sandbox = AudioSandbox((sys.executable, "-m", "tests.processor.sandbox.restricted"))
    try:
        sandbox.check(folder)
        song = write_pcm(folder / "source.wav", noise(0.5))
        with sandbox.open(folder, max_seconds=5, cancel=CancelToken()) as decoder:
            decoder.probe(song)
            assert decoder.decode(song).frames == 22_050
        assert sandbox.status() == {"rlimits": True, "landlock": 0, "seccomp": False, "network": True}
    finally:
        sandbox.close()


# --- how it ends ---


@pytest.mark.parametrize(
    ("behaviour", "sentence"),
    [
        ("crash", "the source makes the decoder crash: its audio is corrupt"),
        ("abort", "the source makes the decoder crash: its audio is corrupt"),
        ("allocate", "the source needs more memory to decode than any valid file"),
        ("spin", "the source takes more time to decode than any valid file"),
        ("fill {folder}/file", "the source makes the decoder crash: its audio is corrupt"),
    ],
)
def test_crash_is_the_failure_of_the_source(hostile: AudioSandbox, folder: Path, behaviour: str, sentence: str) -> None:
    error = failure(hostile, folder, behaviour.format(folder=folder))
    assert isinstance(error, PermanentError)
    assert (error.code, error.message) == (ErrorCode.AUDIO_CORRUPT, sentence)


def test_place_of_a_crash_is_logged(hostile: AudioSandbox, folder: Path) -> None:
    with capture_logs() as logs:
        failure(hostile, folder, "crash")
    (line,) = (line for line in logs if line["event"] == "sandbox_process_died")
    assert line["status"] == -signal.SIGSEGV
    assert "string_at" in line["output"]


def test_defect_is_permanent_and_logged(hostile: AudioSandbox, folder: Path) -> None:
    with capture_logs() as logs:
        error = failure(hostile, folder, "fail")
    assert isinstance(error, PermanentError)
    assert (error.code, error.message) == (ErrorCode.INTERNAL, "the service met an unexpected error")
    (line,) = (line for line in logs if line["event"] == "sandbox_process_died")
    assert "RuntimeError: a defect" in line["output"]


def test_output_does_not_block_it(hostile: AudioSandbox, folder: Path) -> None:
    assert finding(hostile, folder, "chatter") in {"written", "EAGAIN"}


def test_process_that_is_killed_from_outside_is_retried(hostile: AudioSandbox, folder: Path) -> None:
    """The kernel does that when memory is short: the source is not to blame."""
    begun = folder / "begun"
    with open_worker_threads() as threads:
        probing = threads.start(lambda: failure(hostile, folder, f"hang {begun}"))
        eventually(begun.exists)
        (process,) = psutil.Process(hostile._process.pid).children()
        process.kill()
        error = probing.result(DEADLINE)
    assert isinstance(error, TransientError)
    assert error.code is ErrorCode.WORKER_DIED


def test_cancel_kills_the_process(hostile: AudioSandbox, folder: Path) -> None:
    begun, cancel = folder / "begun", CancelToken()
    with open_worker_threads() as threads:
        probing = threads.start(lambda: failure(hostile, folder, f"hang {begun}", cancel))
        eventually(begun.exists)
        cancel.cancel(ErrorCode.DELIVERY_LOST)
        error = probing.result(DEADLINE)
    assert isinstance(error, CancelledError)
    assert error.code is ErrorCode.DELIVERY_LOST
    assert psutil.Process(hostile._process.pid).children() == []


def test_process_that_closes_its_output_is_killed(hostile: AudioSandbox, folder: Path) -> None:
    """The server would not notice its end."""
    assert isinstance(failure(hostile, folder, "close_output"), TransientError)


def test_cancelled_job_gets_no_process(hostile: AudioSandbox, folder: Path) -> None:
    cancel = CancelToken()
    cancel.cancel(ErrorCode.SHUTTING_DOWN)
    assert isinstance(failure(hostile, folder, "hang", cancel), CancelledError)


def test_dead_server_is_replaced(hostile: AudioSandbox, folder: Path) -> None:
    begun = folder / "begun"
    with open_worker_threads() as threads:
        probing = threads.start(lambda: failure(hostile, folder, f"hang {begun}"))
        eventually(begun.exists)
        first = psutil.Process(hostile._process.pid)
        (process,) = first.children()
        first.kill()
        error = probing.result(DEADLINE)
    assert isinstance(error, TransientError)
    assert psutil.wait_procs([process], timeout=DEADLINE)[1] == []
    assert finding(hostile, folder, "descriptors") == "0 1 2 3"
    assert hostile._process.pid != first.pid


def test_processes_end_with_the_sandbox(folder: Path) -> None:
    sandbox, begun = AudioSandbox(COMMAND), folder / "begun"
    with open_worker_threads() as threads:
        probing = threads.start(lambda: failure(sandbox, folder, f"hang {begun}"))
        eventually(begun.exists)
        server = psutil.Process(sandbox._process.pid)
        processes = [server, *server.children()]
        sandbox.close()
        assert isinstance(probing.result(DEADLINE), TransientError)
    assert psutil.wait_procs(processes, timeout=DEADLINE)[1] == []


def test_server_that_cannot_be_started_is_an_infrastructure_error() -> None:
    with pytest.raises(InfrastructureError) as caught:
        AudioSandbox(("/nonexistent",))
    assert caught.value.message == "no decoding process can be started: No such file or directory"


def test_server_that_ends_at_once_is_an_infrastructure_error(folder: Path) -> None:
    sandbox = AudioSandbox((sys.executable, "-c", "pass"))
    with pytest.raises(InfrastructureError) as caught:
        sandbox.check(folder)
    sandbox.close()
    assert caught.value.code is ErrorCode.WORKER_DIED


# --- what it reports ---


@pytest.mark.parametrize("kind", ["nothing", "another length", "another format", "a link", "a second name", "a pipe"])
def test_other_file_than_a_song_is_refused(hostile: AudioSandbox, folder: Path, tmp_path: Path, kind: str) -> None:
    """The separation process would read it."""
    real = tmp_path / "mixture.wav"
    write_wav(real, [noise(0.1).T], channels=2)
    create: dict[str, Callable[[Path], object]] = {
        "nothing": lambda path: None,
        "another length": lambda path: path.write_bytes(real.read_bytes()[:-8]),
        "another format": lambda path: path.write_bytes(b"RIFF" + real.read_bytes()[4:]),
        "a link": lambda path: path.symlink_to(real),
        "a second name": lambda path: path.hardlink_to(real),
        "a pipe": lambda path: os.mkfifo(path),
    }
    create[kind](folder / "mixture.wav")
    path = source(folder, "decode 4410")
    with hostile.open(folder, max_seconds=5, cancel=CancelToken()) as decoder:
        decoder.probe(path)
        with pytest.raises(PermanentError) as caught:
            decoder.decode(path)
    assert caught.value.code is ErrorCode.INTERNAL


def test_processes_of_several_threads_are_separate(folder: Path) -> None:
    sandbox, barrier = shared_sandbox(), threading.Barrier(4)
    song = write_pcm(folder / "song.wav", noise(0.5))

    def decoded(number: int) -> int:
        own = folder / str(number)
        own.mkdir()
        path = own / "source"
        path.write_bytes(song.read_bytes())
        with sandbox.open(own, max_seconds=5, cancel=CancelToken()) as decoder:
            decoder.probe(path)
            barrier.wait(DEADLINE)
            return decoder.decode(path).frames

    with open_worker_threads() as threads:
        results = [threads.start(decoded, number) for number in range(4)]
        assert [result.result(DEADLINE) for result in results] == [22_050] * 4


# --- in a job ---


def test_crash_of_a_decoder_fails_its_job_only(hostile: AudioSandbox, tmp_path: Path) -> None:
    with open_bench(tmp_path, "work", sandbox=hostile) as at:
        at.source.serve_bytes("/hostile", b"crash ")
        error = at.job("/hostile").failure()
        assert isinstance(error, PermanentError)
        assert error.code is ErrorCode.AUDIO_CORRUPT
        assert at.handler.pool.status()[0]["pid"] is None  # no separation process was needed
