"""The server of all rows: one process, a thread per connection, bodies sent with sendfile.

    python -m benchmarks.download.server.server FOLDER HOST

``FOLDER`` holds two files, ``old`` and ``new``. The server prints its port, and ends with its standard input.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from benchmarks.download.run import DownloadRun
from benchmarks.download.server.answer import After, Answer, AnswerRange, Request, ServedFile
from benchmarks.download.server.misbehaviour import FAULTS, bomb_file
from benchmarks.download.server.pacing import Pacer
from benchmarks.download.server.profile import Profile

FIGURES = "figures"
"""``/RUN/figures`` returns the counters of a run."""

#: Bytes per call without a rate: enough to make its cost negligible.
_LARGEST_SLICE = 4 * 1024**2
#: Time covered by one call with a rate, s.
_TICK = 0.02
_EPOCH = 1_700_000_000


class FaultServer:
    """Serves the files of ``folder`` on ``host``, in daemon threads."""

    def __init__(self, folder: Path, host: str) -> None:
        self._files = {name: os.open(folder / name, os.O_RDONLY) for name in ("old", "new")}
        self._runs: dict[str, DownloadRun] = {}
        self._lock = threading.Lock()
        self._listener = socket.create_server((host, 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def run(self, name: str, query: str) -> DownloadRun:
        """Return the run of this name, with the profile of its first request. Raises KeyError or ValueError."""
        with self._lock:
            if name not in self._runs:
                profile = Profile.parse(query)
                old, new = (
                    ServedFile(descriptor, profile.size, f'"{kind}-{profile.size}"', _EPOCH + 86400 * age)
                    for age, (kind, descriptor) in enumerate(self._files.items())
                )
                self._runs[name] = DownloadRun(profile, old, new)
            return self._runs[name]

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connected_at = time.monotonic()
        with suppress(OSError), connection, connection.makefile("rb") as stream:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            served: _ServedConnection | None = None
            while request := _read_request(stream):
                if urlsplit(request.target).path.endswith(f"/{FIGURES}"):
                    connection.sendall(self._figures(request.run))
                    continue
                served = served or _ServedConnection(connection, self.run(request.run, request.query), connected_at)
                if not served.answer(request):
                    return

    def _figures(self, name: str) -> bytes:
        with self._lock:
            run = self._runs.get(name)
        body = json.dumps(run.figures() if run else {}).encode()
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class _ServedConnection:
    """One connection, with the delays and rates of its run's profile."""

    def __init__(self, connection: socket.socket, run: DownloadRun, connected_at: float) -> None:
        self._connection = connection
        self._run = run
        profile = run.profile
        self._behave = FAULTS[profile.fault]
        own = Pacer(profile.rate) if profile.rate else None
        self._pacers = tuple(pacer for pacer in (own, run.pacer) if pacer)
        # The real handshake took no time: a request that arrives before the simulated end of the handshake is early.
        self._handshake_end = connected_at + profile.round_trip
        if profile.congestion:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, profile.congestion.encode())

    def answer(self, request: Request) -> bool:
        """Answer one request, and return whether the connection stays open for another one."""
        if self._run.profile.round_trip:
            early = max(self._handshake_end - time.monotonic(), 0.0)
            threading.Event().wait(early + self._run.profile.round_trip)
        with self._run.answering():
            answer = self._behave(request, self._run)
            self._connection.sendall(_head(answer))
            for part in answer.body:
                self._send(part)
        if answer.after is After.HOLD:
            while self._connection.recv(65536):
                pass
        return answer.after is After.KEEP and request.headers.get("connection", "").lower() != "close"

    def _send(self, part: AnswerRange | bytes) -> None:
        if isinstance(part, bytes):
            self._wait(len(part), self._pacers)
            self._connection.sendall(part)
            self._run.add(len(part))
            return
        pacers = (Pacer(part.rate),) if part.rate else self._pacers
        for offset, length in _slices(part, pacers):
            self._wait(length, pacers)
            self._send_file(part.descriptor, offset, length)

    def _wait(self, amount: int, pacers: tuple[Pacer, ...]) -> None:
        for pacer in pacers:
            pacer.wait(amount)

    def _send_file(self, descriptor: int, offset: int, length: int) -> None:
        while length:
            sent = os.sendfile(self._connection.fileno(), descriptor, offset, length)
            if not sent:
                raise OSError("the file is shorter than the size in the profile")
            self._run.add(sent)
            offset += sent
            length -= sent


def _slices(span: AnswerRange, pacers: tuple[Pacer, ...]) -> Iterator[tuple[int, int]]:
    step = _LARGEST_SLICE
    if pacers:
        step = max(1, min(step, int(min(pacer.rate for pacer in pacers) * _TICK)))
    end = span.offset + span.length
    for offset in range(span.offset, end, step):
        yield offset, min(step, end - offset)


def _head(answer: Answer) -> bytes:
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    return "\r\n".join((*lines, "", "")).encode("latin-1")


def _read_request(stream: BinaryIO) -> Request | None:
    """Read the next request of a connection; None at its end."""
    words = stream.readline().decode("latin-1").split(" ")
    if len(words) != 3:
        return None
    headers: dict[str, str] = {}
    while header := stream.readline().decode("latin-1").strip():
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    return Request(words[0], words[1], headers)


def main() -> None:
    """Serve until standard input is closed, and print the port."""
    server = FaultServer(Path(sys.argv[1]), sys.argv[2])
    bomb_file()  # built in advance, so that it does not look like a stall
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
