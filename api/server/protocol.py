"""uvicorn's HTTP/1.1 connection with time limits and errors in the form that all errors share."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from api.errors import error_response
from api.server.connections import Connections, Wait
from pipeline.service.log_limit import LogLimit
from pipeline.service.logs import get_logger

log = get_logger(__name__)

_invalid, _overdue = LogLimit(), LogLimit()


def raw_error(status: HTTPStatus, sentence: str, **headers: str) -> bytes:
    """Return a complete response with an error, after which the connection is closed."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    response = error_response(status, sentence, headers={**names, "Connection": "close"})
    head = b"".join(b"%b: %b\r\n" % (name, value) for name, value in response.raw_headers)
    return b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (status, status.phrase.encode(), head, bytes(response.body))


class LimitedConnection(H11Protocol):
    """A connection that knows what it waits for and since when; ``Connections`` closes it when it is overdue."""

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], connections: Connections
    ) -> None:
        super().__init__(config, server_state, app_state)
        self._connections = connections
        self.peer = ""
        self.waits_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.peer = self.client[0] if self.client else ""
        self._restart_wait()
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        super().connection_lost(exc)

    def handle_events(self) -> None:
        previous = self.cycle
        super().handle_events()
        if self.cycle is not previous:
            self._restart_wait()  # A header is complete: the time of its body begins.

    def on_response_complete(self) -> None:
        self._restart_wait()
        super().on_response_complete()

    def pause_writing(self) -> None:
        self._restart_wait()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._restart_wait()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP. uvicorn's own answer is plain text, and fails within a response."""
        _invalid.write(log.info, "request_invalid", peer=self.peer)
        self._answer_and_close(HTTPStatus.BAD_REQUEST, "The request is not valid HTTP")

    @property
    def waits_for(self) -> Wait | None:
        if self.transport.is_closing() or self.flow.write_paused:
            return Wait.READER
        if self.conn.their_state is h11.SEND_BODY:
            return Wait.BODY
        return Wait.REQUEST if self._is_idle() else None

    def time_out(self) -> None:
        wait = self.waits_for
        has_begun = wait is Wait.BODY or bool(self.conn.trailing_data[0])
        if has_begun or wait is Wait.READER:
            _overdue.write(log.info, "connection_overdue", peer=self.peer, waited_for=wait and wait.value)
        if wait is Wait.READER:
            self.abort()
        elif has_begun:
            self._answer_and_close(HTTPStatus.REQUEST_TIMEOUT, "The request was not complete in time")
        else:
            self.transport.close()

    def abort(self) -> None:
        self.transport.abort()

    def _answer_and_close(self, status: HTTPStatus, sentence: str) -> None:
        if self._is_idle() or not self.cycle.response_started:
            self.transport.write(raw_error(status, sentence))
        self._restart_wait()
        self.transport.close()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _restart_wait(self) -> None:
        self.waits_since = self.loop.time()
