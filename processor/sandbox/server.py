"""``python -m processor.sandbox.server FD``: forks a disposable process for each source.

It loads the modules once, so that a source costs a fork instead of the start of an interpreter. It is a program of its
own, not a fork of the processor: no credential was ever in its memory. It reads no file from elsewhere itself.

``FD`` is a socket. Each byte on it comes with two descriptors: the channel of a new process, and a control socket, on
which the server reports how the process ended. When the processor closes the control socket, the process is killed;
when it closes ``FD``, or exits, all of them are.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import selectors
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

import numpy as np

from pipeline.cancellation import CancelToken
from pipeline.errors import PipelineError
from pipeline.files import system_reason
from pipeline.service.shutdown import ExitCode
from processor.audio.decode import decode
from processor.audio.probe import examine
from processor.audio.wav import write_wav
from processor.sandbox.messages import (
    SANDBOX_COMMANDS,
    SANDBOX_REPLIES,
    SERVER_REPORTS,
    NotForked,
    ProcessEnded,
    ServerReport,
)
from processor.sandbox.worker import serve_source
from processor.system.channel import Channel
from processor.system.linux import prefer_for_oom_kill

#: The bytes of a process's standard error that are kept.
_OUTPUT_BYTES = 2000
#: The descriptor of the channel in a disposable process.
_CHANNEL = 3


@dataclass(slots=True)
class _Process:
    pid: int
    control: Connection
    output: int
    """The descriptor of its standard error."""
    tail: bytes = b""
    has_ended: bool = False

    def kill(self) -> None:
        if not self.has_ended:  # or the number may be that of another process
            os.kill(self.pid, signal.SIGKILL)


class DecodingServer:
    """Starts a process for each request on the socket ``requests``."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._processes: list[_Process] = []
        self._selector = selectors.DefaultSelector()
        self._watch(requests.fileno(), self._accept)
        self._is_open = True

    def run(self) -> None:
        """Serve until the processor closes the socket; kill the processes then."""
        while self._is_open:
            for key, _ in self._selector.select():
                key.data()
        for process in self._processes:
            process.kill()

    def _watch(self, descriptor: int, react: Callable[[], None]) -> None:
        self._selector.register(descriptor, selectors.EVENT_READ, react)

    def _accept(self) -> None:
        data, descriptors, _, _ = socket.recv_fds(self._requests, 1, 2)
        if not data:
            self._is_open = False
            return
        channel, control = descriptors
        ours, theirs = os.pipe()
        try:
            pid = os.fork()
        except OSError as error:
            os.close(ours)
            _report(Connection(control), NotForked(system_reason(error)))
        else:
            if pid == 0:
                _become_disposable(channel, theirs)
            process = _Process(pid, Connection(control), ours)
            self._processes.append(process)
            self._watch(ours, lambda: self._read_output(process))
            self._watch(control, lambda: self._end_on_request(process))
        finally:
            os.close(channel)
            os.close(theirs)

    def _end_on_request(self, process: _Process) -> None:
        if not process.has_ended:
            self._selector.unregister(process.control)
            process.kill()

    def _read_output(self, process: _Process) -> None:
        output = os.read(process.output, 1 << 16)
        process.tail = (process.tail + output)[-_OUTPUT_BYTES:]
        if not output:
            self._reap(process)

    def _reap(self, process: _Process) -> None:
        """Kill a process that has closed its standard error, in case it still runs, and report its end."""
        process.kill()
        status = os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])
        process.has_ended = True
        self._processes.remove(process)
        self._selector.unregister(process.output)
        os.close(process.output)
        with suppress(KeyError):
            self._selector.unregister(process.control)
        _report(process.control, ProcessEnded(status, process.tail.decode(errors="replace")))


def _report(control: Connection, report: ServerReport) -> None:
    """Send the report, unless the processor does not wait for it, and close the connection."""
    channel: Channel[ServerReport, ServerReport] = Channel(control, sends=SERVER_REPORTS, receives=SERVER_REPORTS)
    with channel, suppress(OSError):
        channel.send(report)


def _become_disposable(channel: int, output: int) -> NoReturn:
    """Do the work of a forked process, with no descriptors but its channel and its standard streams."""
    status = ExitCode.INTERNAL
    try:
        os.setsid()
        os.set_blocking(output, False)  # a full pipe does not block the process
        os.dup2(output, sys.stderr.fileno())
        os.dup2(channel, _CHANNEL)
        os.closerange(_CHANNEL + 1, os.sysconf("SC_OPEN_MAX"))
        # Open until the end of the process: the processor has it killed as soon as the channel is closed.
        replies = Channel(Connection(_CHANNEL), sends=SANDBOX_REPLIES, receives=SANDBOX_COMMANDS)
        serve_source(replies)
        status = ExitCode.OK
    except BaseException:  # noqa: BLE001  the frames below belong to the server
        traceback.print_exc()
    finally:
        os._exit(status)


def _warm_up() -> None:
    """Load what is only loaded with the first source."""
    with suppress(OSError, PipelineError), tempfile.TemporaryDirectory() as name:
        source = Path(name) / "source"
        write_wav(source, [np.zeros((1000, 2), np.float32)], channels=2)
        examine(source, max_seconds=1)
        decode(source, Path(name), max_seconds=1, cancel=CancelToken())


def main(descriptor: int) -> int:
    """Serve the processor on the other end of ``descriptor`` until it exits."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the processor decides when to stop
        signal.signal(number, signal.SIG_IGN)
    prefer_for_oom_kill()
    faulthandler.enable()
    with socket.socket(fileno=descriptor) as requests:
        requests.set_inheritable(False)
        _warm_up()
        gc.collect()
        gc.freeze()
        DecodingServer(requests).run()
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
