"""A real HTTP/3 server on loopback, with the aioquic package: serves one file, whole or in ranges."""

from __future__ import annotations

import asyncio
import re
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from types import TracebackType
from typing import Any, Self

import trustme
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.h3.connection import H3_ALPN, ErrorCode, H3Connection
from aioquic.h3.events import HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates

DEADLINE = 20.0
_ETAG = '"v1"'
_RANGE = re.compile(r"bytes=([0-9]+)-([0-9]*)")
_CHUNK_BYTES = 64 * 1024
#: Bytes of one stream that are sent or queued without an acknowledgement, at most.
_MAX_PENDING_BYTES = 1024 * 1024


class Ending(Enum):
    """The end of a response."""

    COMPLETE = auto()
    STALL = auto()
    RESET = auto()


@dataclass(frozen=True, slots=True)
class Http3Response:
    """One response. ``announced`` replaces the length of the body in its headers."""

    body: bytes = b""
    status: int = 200
    headers: Sequence[tuple[str, str]] = ()
    announced: int | None = None
    ending: Ending = Ending.COMPLETE


Respond = Callable[[dict[str, str]], Http3Response]


def file_response(body: bytes) -> Respond:
    """Serve ``body`` as a WAV file with a strong ETag, whole or one range of it."""

    def respond(request: dict[str, str]) -> Http3Response:
        headers = [("content-type", "audio/wav"), ("etag", _ETAG), ("accept-ranges", "bytes")]
        wanted = _RANGE.fullmatch(request.get("range", ""))
        if wanted is None:
            return Http3Response(body, headers=headers)
        start, stop = int(wanted[1]), min(int(wanted[2] or len(body)) + 1, len(body))
        headers.append(("content-range", f"bytes {start}-{stop - 1}/{len(body)}"))
        return Http3Response(body[start:stop], 206, headers)

    return respond


class Http3Server:
    """Answers every request with ``respond`` in a thread of its own. A context manager."""

    def __init__(self, certificate: trustme.LeafCert, respond: Respond, host: str = "127.0.0.1", port: int = 0) -> None:
        self._configuration = QuicConfiguration(
            is_client=False, alpn_protocols=H3_ALPN, congestion_control_algorithm="cubic"
        )
        chain = b"".join(pem.bytes() for pem in certificate.cert_chain_pems)
        self._configuration.certificate, *self._configuration.certificate_chain = load_pem_x509_certificates(chain)
        key: Any = load_pem_private_key(certificate.private_key_pem.bytes(), password=None)
        self._configuration.private_key = key
        self._configuration.verify_mode = ssl.CERT_NONE
        self._respond = respond
        self._host = host
        self.port = port
        self.requests: list[dict[str, str]] = []
        """Headers and pseudo-headers of each."""
        self.connections = 0
        self.sent = 0
        """Bytes of bodies that were queued so far, at most ``_MAX_PENDING_BYTES`` of a stream unacknowledged."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="http3-server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(DEADLINE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(DEADLINE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()
        self._loop.close()

    async def _start(self) -> None:
        self._server = await serve(
            self._host,
            self.port,
            configuration=self._configuration,
            create_protocol=lambda *args, **options: _Connection(self, *args, **options),
        )
        assert self._server._transport
        self.port = self._server._transport.get_extra_info("sockname")[1]

    async def _stop(self) -> None:
        self._server.close()
        assert self._server._transport
        self._server._transport.abort()  # closes even with unsent datagrams
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def answer(self, request: dict[str, str]) -> Http3Response:
        """Record ``request`` and return its response."""
        self.requests.append(request)
        return self._respond(request)


class _Connection(QuicConnectionProtocol):
    def __init__(self, server: Http3Server, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._http = H3Connection(self._quic)
        self._server_state = server
        self._tasks: set[asyncio.Task[None]] = set()
        server.connections += 1

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated):
            for task in self._tasks:
                task.cancel()
        for received in self._http.handle_event(event):
            if isinstance(received, HeadersReceived):
                request = {name.decode(): value.decode() for name, value in received.headers}
                task = self._loop.create_task(self._send(received.stream_id, self._server_state.answer(request)))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _send(self, stream: int, response: Http3Response) -> None:
        length = len(response.body) if response.announced is None else response.announced
        headers = [(":status", str(response.status)), ("content-length", str(length)), *response.headers]
        self._http.send_headers(stream, [(name.encode(), value.encode()) for name, value in headers])
        sender = self._quic._streams[stream].sender
        for start in range(0, len(response.body), _CHUNK_BYTES):
            self._http.send_data(stream, response.body[start : start + _CHUNK_BYTES], end_stream=False)
            self._server_state.sent += _CHUNK_BYTES
            self.transmit()
            while len(sender._buffer) > _MAX_PENDING_BYTES and sender._reset_error_code is None:
                await asyncio.sleep(0.001)
            if sender._reset_error_code is not None:  # the client has cancelled the request
                return
        if response.ending is Ending.COMPLETE:
            self._http.send_data(stream, b"", end_stream=True)
        elif response.ending is Ending.RESET:
            self._quic.reset_stream(stream, ErrorCode.H3_INTERNAL_ERROR)
        self.transmit()
