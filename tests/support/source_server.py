"""A real HTTP server on loopback that serves files and misbehaves on demand.

    with SourceServer() as server:
        server.serve_bytes("/song.wav", data, "audio/wav")
        server.add("/flaky", sequence(answer(503), content(data)))
        fetch(server.url("/flaky"))
        assert server.connections == 2

A behaviour is any callable that takes an ``Exchange``. It writes to the socket itself, because most test cases need
bytes that no HTTP library would send.
"""

from __future__ import annotations

import gzip
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

DEADLINE = 20.0

_REASONS = {status.value: status.phrase for status in HTTPStatus}

Headers = Mapping[str, str] | Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Request:
    """One request of a client."""

    method: str
    target: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return {name: values[-1] for name, values in parse_qs(urlsplit(self.target).query).items()}


@dataclass
class Exchange:
    """One request, with the connection for its response."""

    request: Request
    connection: socket.socket
    stopping: threading.Event
    keep_open: bool = field(default=False, init=False)
    """Whether the client may send another request on this connection."""

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def head(self, status: int, headers: Headers = ()) -> None:
        """Send the status line and exactly these headers."""
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        lines = [
            f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}",
            *(f"{name}: {value}" for name, value in pairs),
            "",
            "",
        ]
        self.send("\r\n".join(lines).encode("latin-1"))

    def respond(self, status: int, body: bytes = b"", headers: Headers = ()) -> None:
        """Send a valid response; keep the connection open if the client asks for it."""
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        self.head(status, [("Content-Length", str(len(body))), *pairs])
        self.send(body)
        self.keep_open = self.wants_more

    @property
    def wants_more(self) -> bool:
        """True if the client asks to keep the connection open."""
        return self.request.headers.get("connection", "").lower() != "close"

    def hold(self) -> None:
        """Keep the connection open and silent until the client or the server closes it."""
        while self.connection.recv(65536):
            pass

    def pause(self, seconds: float) -> bool:
        """Wait; return False when the server stops."""
        return not self.stopping.wait(seconds)

    def reset(self) -> None:
        """Close the connection with RST instead of FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.keep_open = False


Behaviour = Callable[[Exchange], None]


class SourceServer:
    """A server as the module describes it. ``tls`` makes it an HTTPS server; ``host`` may be ``::1``."""

    def __init__(self, host: str = "127.0.0.1", *, tls: ssl.SSLContext | None = None) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=64)
        self._host = host
        self._tls = tls
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        """Accepted so far."""
        self.requests: list[Request] = []
        """Received so far."""
        self._behaviours: dict[str, Behaviour] = {}
        self._otherwise: Behaviour = answer(404)
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._defects: list[BaseException] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._changed:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in tuple(self._threads):
            thread.join(DEADLINE)
            assert not thread.is_alive(), "a behaviour does not end"
        if self._defects and error is None:
            raise self._defects[0]

    def url(self, path: str) -> str:
        """Return the URL of ``path``, with the IP address."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}{path}"

    def add(self, path: str, behaviour: Behaviour) -> None:
        """Set the behaviour of ``path`` with any query."""
        self._behaviours[path] = behaviour

    def otherwise(self, behaviour: Behaviour) -> None:
        """Set the behaviour of all other paths, instead of 404."""
        self._otherwise = behaviour

    def serve_bytes(self, path: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        """Serve a file at ``path``."""
        self.add(path, content(data, content_type))

    def wait_for_requests(self, count: int, timeout: float = DEADLINE) -> None:
        """Wait for a total of ``count`` requests. Raises AssertionError if they do not arrive."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.requests) >= count, timeout), f"{len(self.requests)} arrived"

    def _start(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args, name="source-server", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._changed:
                self.connections += 1
                self._open.add(connection)
            self._start(self._serve, connection)

    def _serve(self, raw: socket.socket) -> None:
        connection = raw
        try:
            if self._tls:
                connection = self._tls.wrap_socket(raw, server_side=True)
                self._swap(raw, connection)
            self._answer_all(connection)
        except (OSError, EOFError):
            pass  # the client, or this server, closed the connection
        except Exception as error:  # noqa: BLE001 - raised in the thread of the test
            self._defects.append(error)
        finally:
            self._swap(connection, None)
            connection.close()

    def _swap(self, old: socket.socket, new: socket.socket | None) -> None:
        with self._changed:
            self._open.discard(old)
            if new is not None:
                self._open.add(new)

    def _answer_all(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as stream:
            keep_open = True
            while keep_open and not self._stopping.is_set():
                request = _read_request(stream.readline, stream.read)
                with self._changed:
                    self.requests.append(request)
                    self._changed.notify_all()
                exchange = Exchange(request, connection, self._stopping)
                self._behaviours.get(request.path, self._otherwise)(exchange)
                keep_open = exchange.keep_open


def _read_request(readline: Callable[[], bytes], read: Callable[[int], bytes]) -> Request:
    line = readline().decode("latin-1")
    if not line:
        raise EOFError
    method, target, _ = line.split(" ", 2)
    headers: dict[str, str] = {}
    while header := readline().decode("latin-1").strip():
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    return Request(method, target, headers, read(int(headers.get("content-length", "0"))))


def content(data: bytes, content_type: str = "audio/wav", headers: Mapping[str, str] | None = None) -> Behaviour:
    """Serve a file correctly."""
    return answer(200, {"Content-Type": content_type, **(headers or {})}, data)


def answer(status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Behaviour:
    """Send a valid response."""
    return lambda exchange: exchange.respond(status, body, headers or {})


def sequence(*behaviours: Behaviour) -> Behaviour:
    """Use each behaviour once, in order; then repeat the last one."""
    pending = list(behaviours)
    lock = threading.Lock()

    def run(exchange: Exchange) -> None:
        with lock:
            behaviour = pending.pop(0) if len(pending) > 1 else pending[0]
        behaviour(exchange)

    return run


def redirect(to: str, status: int = 302) -> Behaviour:
    """Redirect to any text, valid or not."""
    return answer(status, {"Location": to})


def raw(data: bytes) -> Behaviour:
    """Send exactly these bytes, including the head, and close the connection."""
    return lambda exchange: exchange.send(data)


def announced(data: bytes, *lengths: object, headers: Mapping[str, str] | None = None) -> Behaviour:
    """Send ``data`` with a ``Content-Length`` header for each of ``lengths``, true or not, and close."""

    def run(exchange: Exchange) -> None:
        exchange.head(200, [*(("Content-Length", str(length)) for length in lengths), *(headers or {}).items()])
        exchange.send(data)

    return run


def chunked(*pieces: bytes, finished: bool = True) -> Behaviour:
    """Send ``pieces`` as chunks, with or without the terminating chunk."""

    def run(exchange: Exchange) -> None:
        exchange.head(200, {"Transfer-Encoding": "chunked"})
        for piece in pieces:
            exchange.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        if finished:
            exchange.send(b"0\r\n\r\n")

    return run


def reset_after(data: bytes, sent: int) -> Behaviour:
    """Send ``sent`` bytes of ``data``, then RST."""

    def run(exchange: Exchange) -> None:
        exchange.head(200, {"Content-Length": str(len(data))})
        exchange.send(data[:sent])
        exchange.reset()

    return run


def stall_after(data: bytes, sent: int) -> Behaviour:
    """Send ``sent`` bytes of ``data``, then keep the connection open and silent."""

    def run(exchange: Exchange) -> None:
        exchange.head(200, {"Content-Length": str(len(data))})
        exchange.send(data[:sent])
        exchange.hold()

    return run


def silence(exchange: Exchange) -> None:
    """Send nothing on an open connection."""
    exchange.hold()


def drip(data: bytes, interval: float) -> Behaviour:
    """Send one byte of the body every ``interval`` s."""

    def run(exchange: Exchange) -> None:
        exchange.head(200, {"Content-Length": str(len(data))})
        for byte in data:
            exchange.send(bytes((byte,)))
            if not exchange.pause(interval):
                return

    return run


def drip_headers(interval: float) -> Behaviour:
    """Send one byte of an endless header every ``interval`` s."""

    def run(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nX-Long: ")
        while exchange.pause(interval):
            exchange.send(b"x")

    return run


def endless_continue(interval: float = 0.01) -> Behaviour:
    """Send ``100 Continue`` repeatedly."""

    def run(exchange: Exchange) -> None:
        while exchange.pause(interval):
            exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    return run


def endless_body(exchange: Exchange) -> None:
    """Send zeros without an announced length, endlessly."""
    exchange.head(200)
    block = bytes(65536)
    while not exchange.stopping.is_set():
        exchange.send(block)


def many_headers(count: int) -> Behaviour:
    """Send a response with ``count`` headers."""
    return lambda exchange: exchange.respond(200, b"x", [(f"X-{i}", "y") for i in range(count)])


def gzip_bomb(mebibytes: int) -> Behaviour:
    """Send zeros, compressed to a thousandth of their size."""
    return content(gzip.compress(bytes(mebibytes << 20), 9), headers={"Content-Encoding": "gzip"})


def http_date(in_seconds: float) -> str:
    """Return a date in the form of ``Retry-After``."""
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + in_seconds))
