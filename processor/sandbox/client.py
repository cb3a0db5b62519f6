"""The processor's side of the sandbox: it starts the decoding server, and has a process of it for each source.

processor ──socket──▶ decoding server (python -m processor.sandbox.server)
    │                       │ fork, for each source
    └───────channel───────▶ disposable process: confine, examine, decode
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, TypeVar

from pipeline.cancellation import CancelToken
from pipeline.errors import ErrorCode, InfrastructureError, PermanentError, PipelineError, TransientError
from pipeline.files import local_errors, system_reason
from pipeline.service.logs import get_logger
from processor.audio.decode import Mixture
from processor.audio.errors import audio_corrupt
from processor.audio.probe import NO_HINTS, Hints, log_format
from processor.audio.track import SampleFormat
from processor.audio.wav import is_working_file
from processor.sandbox.confinement import Protections, cpu_limit
from processor.sandbox.messages import (
    SANDBOX_COMMANDS,
    SANDBOX_REPLIES,
    SERVER_REPORTS,
    Confine,
    Confined,
    Decode,
    Decoded,
    Examine,
    Examined,
    NotForked,
    ProcessEnded,
    Refused,
    SandboxCommand,
    SandboxReply,
    ServerReport,
)
from processor.system.channel import Channel, ProtocolError
from processor.system.child_environment import BASIC, allowed_environment

log = get_logger(__name__)

#: The server's command; the number of its socket's descriptor is appended.
SERVER_COMMAND = (sys.executable, "-m", "processor.sandbox.server")
#: One thread for the libraries of the server, which forks. The modules that are loaded start no other ones.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
#: The time within which a process must be confined, s: the server may still load its modules.
_START_TIMEOUT = 60.0
#: The time limit of a command as a multiple of its processor time: the disk, or other processes, may be slow.
_PATIENCE = 4
#: The time within which the server must report the end of a process that it was asked to kill, s.
_EXIT_TIMEOUT = 2.0
#: The signals that a process can only get from outside: no source is to blame.
_FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})

Reply = TypeVar("Reply", Confined, Examined, Decoded)


class AudioSandbox:
    """Probes and decodes sources in disposable processes. Thread-safe."""

    def __init__(self, command: Sequence[str] = SERVER_COMMAND) -> None:
        """Start the server, which is ready after half a second. Raises InfrastructureError if that fails."""
        self._command = command
        self._lock = threading.Lock()
        self._protections: Protections | None = None
        self._process, self._requests = self._start()

    def check(self, folder: Path) -> None:
        """Start a process, and log what confines it. Raises InfrastructureError if it cannot confine itself."""
        try:
            with self.open(folder, max_seconds=1, cancel=CancelToken()) as decoder:
                self._protections = decoder.protections
        except (PermanentError, TransientError) as error:
            raise _not_started(error.message) from error
        log.info("sandbox_ready", **asdict(self._protections))

    def status(self) -> dict[str, Any] | None:
        """Return what confines the processes, for /health; None until one was started."""
        return None if self._protections is None else asdict(self._protections)

    @contextmanager
    def open(self, folder: Path, *, max_seconds: float, cancel: CancelToken) -> Iterator[SandboxedDecoder]:
        """Yield a decoder for one source in ``folder``, where it may write; it ends with the block.

        ``max_seconds``: the length of the longest song, s. Raises InfrastructureError if no process can be started,
        TransientError and CancelledError.
        """
        with ExitStack() as resources:
            with local_errors():  # too many open files
                (channel_end, their_channel), (control_end, their_control) = Pipe(), Pipe()
            channel = resources.enter_context(
                Channel[SandboxCommand, SandboxReply](channel_end, sends=SANDBOX_COMMANDS, receives=SANDBOX_REPLIES)
            )
            control = resources.enter_context(
                Channel[ServerReport, ServerReport](control_end, sends=SERVER_REPORTS, receives=SERVER_REPORTS)
            )
            with their_channel, their_control:
                self._request(their_channel.fileno(), their_control.fileno())
            with local_errors():
                decoder = SandboxedDecoder(channel, control, folder, max_seconds, cancel)
            resources.callback(decoder.close)
            cancel.on_cancel(decoder.kill)
            decoder.confine()
            if self._protections not in (None, decoder.protections):
                log.error("sandbox_incomplete", **asdict(decoder.protections))
                raise _not_started("it is confined less than at the start of the service")
            yield decoder

    def close(self) -> None:
        """End the server and its processes."""
        with self._lock:
            self._end()

    def _request(self, *descriptors: int) -> None:
        with self._lock:
            try:
                socket.send_fds(self._requests, [b"+"], descriptors)
            except OSError:  # the server has exited
                self._end()
                self._process, self._requests = self._start()
                with local_errors():
                    socket.send_fds(self._requests, [b"+"], descriptors)

    def _start(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = subprocess.Popen(
                    [*self._command, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    process_group=0,  # signals to the group of the service are for the processor
                    env=allowed_environment(os.environ, *BASIC) | _ONE_THREAD,
                )
        except OSError as error:
            ours.close()
            raise _not_started(system_reason(error)) from error
        return process, ours

    def _end(self) -> None:
        self._requests.close()
        self._process.kill()  # the kernel kills its processes
        self._process.wait()


class SandboxedDecoder:
    """A disposable process for one source. One thread may call its methods; ``kill`` is thread-safe."""

    def __init__(
        self,
        channel: Channel[SandboxCommand, SandboxReply],
        control: Channel[ServerReport, ServerReport],
        folder: Path,
        max_seconds: float,
        cancel: CancelToken,
    ) -> None:
        self._channel, self._control = channel, control
        self._folder, self._max_seconds, self._cancel = folder, max_seconds, cancel
        # A second descriptor: a Connection cannot be shut down.
        self._shutdown = socket.socket(fileno=os.dup(control.fileno()))
        self._lock = threading.Lock()
        self.protections = Protections(rlimits=False, landlock=0, seccomp=False, network=True)

    def confine(self) -> None:
        """Let the process confine itself."""
        confine = Confine(self._folder, self._max_seconds)
        self.protections = self._ask(confine, Confined, _START_TIMEOUT).protections

    def probe(self, source: Path, hints: Hints = NO_HINTS) -> SampleFormat:
        """Return the format of ``source``, as ``processor.audio.probe.probe`` does, with the same errors and log.

        Raises TransientError too if the process is killed from outside, or takes too long.
        """
        form = self._ask(Examine(source), Examined, self._timeout).form
        log_format(form, hints)
        return form

    def decode(self, source: Path) -> Mixture:
        """Decode ``source``, as ``processor.audio.decode.decode`` does, with the same errors. The process ends.

        Raises TransientError too if the process is killed from outside, or takes too long.
        """
        decoded = self._ask(Decode(source), Decoded, self._timeout)
        self._end()  # before its file is checked
        mixture = Mixture(self._folder / "mixture.wav", **asdict(decoded))
        with local_errors():
            if is_working_file(mixture.path, mixture.frames) and mixture.duration <= self._max_seconds + 1:
                return mixture
        raise _broken_protocol("it wrote another file than a decoded song")

    def kill(self) -> None:
        """Kill the process. Do nothing if it has ended."""
        with self._lock, suppress(OSError):
            self._shutdown.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Kill the process, and wait until it has ended."""
        self._end()
        with self._lock:
            self._shutdown.close()

    @property
    def _timeout(self) -> float:
        return _PATIENCE * cpu_limit(self._max_seconds)

    def _ask(self, command: SandboxCommand, expected: type[Reply], timeout: float) -> Reply:
        self._cancel.raise_if_set()
        try:
            self._channel.send(command)
            if not self._channel.poll(timeout):
                raise TransientError(f"the decoding took longer than {timeout:g} s", code=ErrorCode.WORKER_TIMEOUT)
            reply = self._channel.receive()
        except ProtocolError as error:
            raise _broken_protocol(str(error)) from error
        except (EOFError, OSError) as error:
            report = self._end()
            self._cancel.raise_if_set()
            raise _error_of(report) from error
        self._cancel.raise_if_set()
        match reply:
            case Refused():
                kind = PermanentError if reply.permanent else InfrastructureError
                raise kind(reply.message, code=reply.code)
            case expected():
                return reply
        raise _broken_protocol(f"it sent {type(reply).__name__}")

    def _end(self) -> ServerReport | None:
        """Kill the process, and return the report about its end; None if the server has ended too."""
        self.kill()
        with suppress(EOFError, OSError, ProtocolError):
            if self._control.poll(_EXIT_TIMEOUT):
                return self._control.receive()
        return None


def _error_of(report: ServerReport | None) -> PipelineError:
    """Return the error for a process that ended before it replied."""
    match report:
        case NotForked():
            return _not_started(report.reason)
        case ProcessEnded(status=status) if -status not in _FROM_OUTSIDE:
            log.error("sandbox_process_died", status=status, output=report.output)
            if status == -signal.SIGXCPU:
                return audio_corrupt("the source takes more time to decode than any valid file")
            if status < 0:
                return audio_corrupt("the source makes the decoder crash: its audio is corrupt")
            return PermanentError("the service met an unexpected error", code=ErrorCode.INTERNAL)
    log.warning("sandbox_process_killed")
    return TransientError("the process that decodes was ended from outside", code=ErrorCode.WORKER_DIED)


def _not_started(reason: str) -> InfrastructureError:
    return InfrastructureError(f"no decoding process can be started: {reason}", code=ErrorCode.WORKER_DIED)


def _broken_protocol(reason: str) -> PermanentError:
    log.error("sandbox_protocol_error", error=reason)
    return PermanentError("the service met an unexpected error", code=ErrorCode.INTERNAL)
