"""A real proxy on loopback: HTTP CONNECT, with or without TLS, and SOCKS5. Public addresses lead to local servers."""

from __future__ import annotations

import base64
import re
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from ipaddress import ip_address
from types import TracebackType
from typing import Self

from tests.support.source_server import SourceServer

DEADLINE = 20.0


class ProxyServer:
    """A proxy that records requested addresses with their ports, and without (``dialled``).

    ``refusal``: a response instead of a connection.
    """

    def __init__(
        self,
        servers: Mapping[int, SourceServer],
        *,
        tls: ssl.SSLContext | None = None,
        credentials: tuple[str, str] | None = None,
        refusal: bytes | None = None,
    ) -> None:
        self._servers = servers
        self._tls = tls
        self._credentials = credentials
        self._refusal = refusal
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self.requested: list[tuple[str, int]] = []
        self.dialled: list[str] = []
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in (self._listener, *self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        for thread in tuple(self._threads):
            thread.join(DEADLINE)
            assert not thread.is_alive()

    def _start(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args, name="proxy", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._open.append(connection)
                self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError, EOFError):
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
                self._open.append(connection)
            if _receive_exactly(connection, 1) == b"\x05":
                self._serve_socks(connection)
            else:
                self._serve_connect(connection)
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()

    def _serve_connect(self, connection: socket.socket) -> None:
        head = b"C"
        while not head.endswith(b"\r\n\r\n"):
            head += _receive_exactly(connection, 1)
        if self._credentials:
            secret = base64.b64encode(":".join(self._credentials).encode())
            if b"\r\nProxy-Authorization: Basic " + secret + b"\r\n" not in head:
                connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
                return
        wanted = re.match(rb"CONNECT \[?([0-9a-f.:]+?)\]?:([0-9]+) HTTP/1.1\r\n", head)
        assert wanted, head
        self._connect(connection, wanted[1].decode(), int(wanted[2]), b"HTTP/1.1 200 OK\r\nVia: 1.1 proxy\r\n\r\n")

    def _serve_socks(self, connection: socket.socket) -> None:
        methods = _receive_exactly(connection, _receive_exactly(connection, 1)[0])
        method = 2 if self._credentials else 0
        if method not in methods:
            connection.sendall(b"\x05\xff")
            return
        connection.sendall(bytes([5, method]))
        if self._credentials:
            _receive_exactly(connection, 1)
            given = tuple(_receive_exactly(connection, _receive_exactly(connection, 1)[0]).decode() for _ in range(2))
            connection.sendall(bytes([1, given != self._credentials]))
            if given != self._credentials:
                return
        _, command, _, family = _receive_exactly(connection, 4)
        assert command == 1
        assert family in (1, 4), "the client sent a name"
        address = ip_address(_receive_exactly(connection, 4 if family == 1 else 16))
        port = int.from_bytes(_receive_exactly(connection, 2), "big")
        # A bound address of the third type, which clients must skip as well.
        self._connect(connection, str(address), port, b"\x05\x00\x00\x03\x05proxy\x00\x00")

    def _connect(self, connection: socket.socket, host: str, port: int, granted: bytes) -> None:
        self.requested.append((host, port))
        self.dialled.append(host)
        if self._refusal is not None:
            connection.sendall(self._refusal)
            # Keep the connection open: the test checks whether the client closes it.
            while connection.recv(65536):
                pass
            return
        with socket.create_connection(("127.0.0.1", self._servers[port].port)) as source:
            self._open.append(source)
            connection.sendall(granted)
            self._start(_pump, connection, source)
            _pump(source, connection)


def _receive_exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
