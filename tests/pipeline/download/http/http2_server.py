"""A real HTTP/2 server on loopback, with the h2 package, for one response per connection."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

import trustme
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import Event, RequestReceived

DEADLINE = 20.0


class Http2Server:
    """Sends ``body``; resets the stream after ``cut`` bytes. Supports HTTP/2 only."""

    def __init__(self, certificate: trustme.LeafCert, body: bytes, *, cut: int | None = None) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self._context)
        self._context.set_alpn_protocols(["h2"])
        self._body = body
        self._cut = cut
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.requests: list[dict[str, str]] = []
        """Headers and pseudo-headers of each."""
        self._thread = threading.Thread(target=self._accept, name="http2-server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()

    def _accept(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            with suppress(OSError), self._context.wrap_socket(raw, server_side=True) as connection:
                self._serve(connection)

    def _serve(self, connection: ssl.SSLSocket) -> None:
        protocol = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        protocol.initiate_connection()
        pending: dict[int, bytes] = {}
        while True:
            connection.sendall(protocol.data_to_send())
            received = connection.recv(65536)
            if not received:
                return
            for event in protocol.receive_data(received):
                self._handle(protocol, event, pending)
            self._send(protocol, pending)

    def _handle(self, protocol: H2Connection, event: Event, pending: dict[int, bytes]) -> None:
        if not isinstance(event, RequestReceived):
            return
        self.requests.append({str(name): str(value) for name, value in event.headers})
        headers = [(":status", "200"), ("content-length", str(len(self._body))), ("content-type", "audio/wav")]
        protocol.send_headers(event.stream_id, headers)
        pending[event.stream_id] = self._body[: self._cut]

    def _send(self, protocol: H2Connection, pending: dict[int, bytes]) -> None:
        for stream, data in tuple(pending.items()):
            window = min(protocol.local_flow_control_window(stream), protocol.max_outbound_frame_size)
            while data and window > 0:
                protocol.send_data(stream, data[:window])
                data = data[window:]
                window = min(protocol.local_flow_control_window(stream), protocol.max_outbound_frame_size)
            pending[stream] = data
            if not data:
                del pending[stream]
                if self._cut is None:
                    protocol.end_stream(stream)
                else:
                    protocol.reset_stream(stream, ErrorCodes.INTERNAL_ERROR)
