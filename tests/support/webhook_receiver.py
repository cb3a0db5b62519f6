"""A webhook receiver on loopback with configurable responses, valid or not, and a record of requests."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from devstack.processes.process import free_port


@dataclass(frozen=True)
class Received:
    """One request: its header names are in lower case."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Exchange:
    """One connection of a request: write bytes, wait for its end, or cut it."""

    connection: socket.socket
    stopping: threading.Event

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def drip(self, data: bytes, interval: float) -> None:
        """Send one byte every ``interval`` s, repeatedly, until the receiver stops."""
        while not self.stopping.is_set():
            for position in range(len(data)):
                self.send(data[position : position + 1])
                if self.stopping.wait(interval):
                    return

    def wait_for_the_end(self) -> None:
        """Send nothing until the client disconnects or the receiver stops."""
        self.connection.settimeout(0.1)
        while not self.stopping.is_set():
            try:
                if not self.connection.recv(1):
                    return
            except TimeoutError:
                continue

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.connection.close()


Answer = Callable[[Exchange], None]


def status(code: int, body: bytes = b"ok", **headers: str) -> Answer:
    """Return a plain response; underscores in header names stand for hyphens."""
    lines = [f"HTTP/1.1 {code} Status", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return lambda exchange: exchange.send("\r\n".join([*lines, "", ""]).encode() + body)


class WebhookReceiver:
    """Answers each request with the next of ``answer(…)``, and repeats the last one; 200 by default.

    It can stop and start again on the same port.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self._condition = threading.Condition()
        self._received: list[Received] = []
        self._answers: list[Answer] = [status(200)]
        self._running: tuple[_Server, threading.Thread] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def received(self) -> list[Received]:
        """All requests so far."""
        with self._condition:
            return list(self._received)

    def answer(self, *answers: Answer | int) -> None:
        """Set the next responses; a number is a plain status."""
        with self._condition:
            self._answers = [status(item) if isinstance(item, int) else item for item in answers]

    def wait_for(self, count: int, timeout: float = 20.0) -> list[Received]:
        """Wait for ``count`` requests and return them. Raises AssertionError after ``timeout`` s."""
        with self._condition:
            arrived = self._condition.wait_for(lambda: len(self._received) >= count, timeout)
            assert arrived, f"{len(self._received)} of {count} webhooks arrived within {timeout} s"
            return self._received[:count]

    def start(self) -> None:
        """Start to listen; return when it does."""
        server = _Server(self)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="webhook-receiver")
        thread.start()
        self._running = (server, thread)

    def stop(self) -> None:
        """Stop listening and end every open connection."""
        if self._running is None:
            return
        server, thread = self._running
        self._running = None
        server.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()

    def _take(self, request: Received) -> Answer:
        with self._condition:
            self._received.append(request)
            self._condition.notify_all()
            return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


class _Server(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, receiver: WebhookReceiver) -> None:
        self.receiver = receiver
        self.stopping = threading.Event()
        super().__init__(("127.0.0.1", receiver.port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect early; print every other error."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 10.0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.receiver._take(Received(self.path, headers, body))
        answer(Exchange(self.connection, self.server.stopping))
        self.close_connection = True

    do_GET = do_POST  # noqa: N815 - the name of the base class; a followed redirect would become a GET

    def log_message(self, *_: Any) -> None:
        """Log nothing: the tests check the recorded requests."""
